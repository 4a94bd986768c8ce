package imageops_test

import (
	"bytes"
	"context"
	"net"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/imageops/imageops/client/go/imageopsv1"
)

// A whole life of an image: sent in parts over a connection that is cut, composed, converted, slimmed, and read in ranges.
func TestPartsToSlimImage(t *testing.T) {
	server, ctx := startConnection(t), deadline(t)
	dialer := &cuttingDialer{after: 5 << 20}
	connection, err := grpc.NewClient("passthrough:///"+server.Target(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dialer.dial))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	client := imageopsv1.NewImageOpsClient(connection)
	content := diskContent()
	half := len(content) / 2

	// The first part is named at once; the second as by a client that learns behind the bytes where they belong.
	begin := metadata(newID(), nil)
	begin.GetMetadata().Session, begin.GetMetadata().Part = "disk", 1
	uploadResuming(ctx, t, client, begin, content[:half], commit(&imageopsv1.Digests{Sha256: sha256Hex(content[:half])}))
	if dialer.connections.Load() < 2 {
		t.Fatal("the connection was not cut")
	}
	begin, end := metadata(newID(), nil), commit(nil)
	begin.GetMetadata().BecomesPart = true
	end.GetCommit().Session, end.GetCommit().Part = "disk", 2
	uploadResuming(ctx, t, client, begin, content[half:], end)

	composed, err := client.ComposeImage(ctx, &imageopsv1.ComposeImageRequest{Metadata: &imageopsv1.UploadMetadata{
		Session: "disk", DisplayName: "in parts", ExpectedDigests: &imageopsv1.Digests{Sha256: sha256Hex(content)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	converting, err := client.Convert(ctx, &imageopsv1.ConvertRequest{
		Source: imageSource(composed.GetImage()), Format: imageopsv1.ImageFormat_IMAGE_FORMAT_QCOW2,
	})
	if err != nil {
		t.Fatal(err)
	}
	converted := watch(ctx, t, client, converting.GetJob().GetName()).GetConvert()
	slimming, err := client.Compress(ctx, &imageopsv1.CompressRequest{
		Source:    &imageopsv1.Source{Source: &imageopsv1.Source_Image{Image: converted.GetOutputImage()}},
		Companion: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	slim := watch(ctx, t, client, slimming.GetJob().GetName()).GetCompress()
	_, slimmed := download(ctx, t, client, &imageopsv1.DownloadImageRequest{Image: slim.GetOutputImage()})
	if !slim.GetVerified() || sha256Hex(slimmed) != slim.GetDigests().GetSha256() {
		t.Errorf("not the slim image that the job tells of: %v", slim)
	}

	// A range across the seam of the parts: of the bytes that were sent, and as the server makes them of the qcow2.
	length := uint64(3 << 20)
	for _, image := range []string{composed.GetImage().GetName(), converted.GetOutputImage()} {
		_, piece := download(ctx, t, client, &imageopsv1.DownloadImageRequest{
			Image: image, Format: imageopsv1.ImageFormat_IMAGE_FORMAT_RAW,
			OffsetBytes: uint64(half) - length/2, LengthBytes: &length,
		})
		if !bytes.Equal(piece, content[half-int(length/2):half+int(length/2)]) {
			t.Errorf("%s: not the range that was asked for", image)
		}
	}
}

// uploadResuming sends a part. When the connection breaks it asks how much is durable, and goes on from there.
func uploadResuming(
	ctx context.Context, t *testing.T, client imageopsv1.ImageOpsClient,
	begin *imageopsv1.UploadImageRequest, content []byte, end *imageopsv1.UploadImageRequest,
) {
	t.Helper()
	name, first, offset := "uploads/"+begin.GetMetadata().GetRequestId(), begin, 0
	for {
		messages := []*imageopsv1.UploadImageRequest{first}
		for at := offset; at < len(content); at += chunkBytes {
			messages = append(messages, chunk(uint64(at), content[at:min(at+chunkBytes, len(content))]))
		}
		answer, err := upload(ctx, client, append(messages, end)...)
		switch status.Code(err) {
		case codes.OK:
			if got := answer.GetUpload(); got.GetState() != imageopsv1.UploadState_UPLOAD_STATE_STORED {
				t.Fatalf("not stored: %v", got)
			}
			return
		case codes.Unavailable, codes.OutOfRange: // cut, or resumed before the server had noticed the cut
		default:
			t.Fatal(err)
		}
		answered, err := client.GetUpload(ctx, &imageopsv1.GetUploadRequest{Name: name}, grpc.WaitForReady(true))
		if status.Code(err) == codes.NotFound {
			continue // not even the first message came
		}
		if err != nil {
			t.Fatal(err)
		}
		durable := answered.GetUpload().GetDurableBytes()
		first, offset = resume(name, durable), int(durable)
	}
}

// cuttingDialer makes connections; the first one breaks once so many bytes were written to it.
type cuttingDialer struct {
	after       int64
	connections atomic.Int32
}

func (d *cuttingDialer) dial(ctx context.Context, address string) (net.Conn, error) {
	connection, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil || d.connections.Add(1) > 1 {
		return connection, err
	}
	return &cutConnection{Conn: connection, left: d.after}, nil
}

// cutConnection has one writer at a time, as gRPC writes.
type cutConnection struct {
	net.Conn
	left int64
}

func (c *cutConnection) Write(data []byte) (int, error) {
	if c.left -= int64(len(data)); c.left < 0 {
		_ = c.Close()
		return 0, net.ErrClosed
	}
	return c.Conn.Write(data)
}
