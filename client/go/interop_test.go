package imageops_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	mathrand "math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/imageops/imageops/client/go/imageopsv1"
)

const chunkBytes = 512 << 10

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// The main job over the wire: an upload that is cut and resumed, a check and a compression watched to their ends, and
// both images downloaded again.
func TestUploadCheckCompressDownload(t *testing.T) {
	client, ctx := startServer(t), deadline(t)
	content := diskContent()
	image := uploadInTwoStreams(ctx, t, client, content)
	if image.GetState() != imageopsv1.ImageState_IMAGE_STATE_ACTIVE || image.GetSizeBytes() != uint64(len(content)) {
		t.Fatalf("not the image that was uploaded: %v", image)
	}
	if image.GetDigests().GetSha256() != sha256Hex(content) || image.GetDigests().GetMd5() != md5Hex(content) {
		t.Errorf("digests of the image: %v", image.GetDigests())
	}
	header, downloaded := download(ctx, t, client, &imageopsv1.DownloadImageRequest{Image: image.GetName()})
	if sha256Hex(downloaded) != sha256Hex(content) {
		t.Error("the download is not what was uploaded")
	}
	if header.GetImage().GetName() != image.GetName() {
		t.Errorf("header of another image: %v", header)
	}

	t.Run("range", func(t *testing.T) {
		length := uint64(chunkBytes + 1)
		header, part := download(ctx, t, client,
			&imageopsv1.DownloadImageRequest{Image: image.GetName(), OffsetBytes: 12345, LengthBytes: &length})
		if header.GetOffsetBytes() != 12345 || header.GetLengthBytes() != length {
			t.Errorf("header: %v", header)
		}
		if !bytes.Equal(part, content[12345:12345+length]) {
			t.Error("not the range that was asked for")
		}
	})

	t.Run("check", func(t *testing.T) {
		answer, err := client.Check(ctx, &imageopsv1.CheckRequest{Source: imageSource(image)})
		if err != nil {
			t.Fatal(err)
		}
		result := watch(ctx, t, client, answer.GetJob().GetName()).GetCheck()
		if result.GetDigests().GetSha256() != sha256Hex(content) || result.GetDigests().GetMd5() != md5Hex(content) {
			t.Errorf("digests: %v", result.GetDigests())
		}
		if result.GetInspection().GetVerdict() != imageopsv1.Verdict_VERDICT_VALID {
			t.Errorf("verdict: %v", result.GetInspection())
		}
		if result.GetOutcome() != imageopsv1.CheckOutcome_CHECK_OUTCOME_NOT_SUPPORTED {
			t.Errorf("a raw image has no tables to check: %v", result.GetOutcome())
		}
	})

	t.Run("compress", func(t *testing.T) {
		answer, err := client.Compress(ctx, &imageopsv1.CompressRequest{Source: imageSource(image), RequestId: newID()})
		if err != nil {
			t.Fatal(err)
		}
		result := watch(ctx, t, client, answer.GetJob().GetName()).GetCompress()
		if !result.GetVerified() || result.GetOutputImage() == image.GetName() {
			t.Errorf("result: %v", result)
		}
		if result.GetOutputBytes() >= uint64(len(content)) || result.GetVirtualSizeBytes() != uint64(len(content)) {
			t.Errorf("%d bytes became %d", len(content), result.GetOutputBytes())
		}
		header, output := download(ctx, t, client, &imageopsv1.DownloadImageRequest{Image: result.GetOutputImage()})
		if uint64(len(output)) != result.GetOutputBytes() || sha256Hex(output) != result.GetDigests().GetSha256() {
			t.Error("the download is not the output that the job tells of")
		}
		made := header.GetImage()
		if made.GetDerivedFrom() != image.GetName() || made.GetFormat() != imageopsv1.ImageFormat_IMAGE_FORMAT_QCOW2 {
			t.Errorf("image: %v", made)
		}
	})
}

// Failures carry one ErrorInfo that a program can act on.
func TestErrorsHaveDetails(t *testing.T) {
	client, ctx := startServer(t), deadline(t)

	t.Run("unknown job", func(t *testing.T) {
		_, err := client.GetJob(ctx, &imageopsv1.GetJobRequest{Name: "jobs/" + newID()})
		expectError(t, err, codes.NotFound, "JOB_NOT_FOUND")
	})
	t.Run("malformed name", func(t *testing.T) {
		_, err := client.GetJob(ctx, &imageopsv1.GetJobRequest{Name: "jobs/../etc"})
		expectError(t, err, codes.InvalidArgument, "INVALID_ARGUMENT")
	})
	t.Run("watch of an unknown job", func(t *testing.T) {
		stream, err := client.WatchStatus(ctx, &imageopsv1.WatchStatusRequest{Job: "jobs/" + newID()})
		if err == nil {
			_, err = stream.Recv()
		}
		expectError(t, err, codes.NotFound, "JOB_NOT_FOUND")
	})
	t.Run("wrong offset", func(t *testing.T) {
		_, err := upload(ctx, client, metadata(newID(), nil), chunk(4096, make([]byte, 4096)))
		info := expectError(t, err, codes.OutOfRange, "WRONG_OFFSET")
		if got := info.GetMetadata()["durable_bytes"]; got != "0" {
			t.Errorf("durable_bytes: %q", got)
		}
	})
	t.Run("wrong digest", func(t *testing.T) {
		promise := &imageopsv1.Digests{Sha256: strings.Repeat("0", 64)}
		_, err := upload(ctx, client, metadata(newID(), nil), chunk(0, make([]byte, 4096)), commit(promise))
		expectError(t, err, codes.InvalidArgument, "DIGEST_MISMATCH")
	})
	t.Run("damaged chunk", func(t *testing.T) {
		damaged := chunk(0, make([]byte, 4096))
		damaged.GetChunk().Data[17] ^= 1
		_, err := upload(ctx, client, metadata(newID(), nil), damaged, commit(nil))
		expectError(t, err, codes.Code(0), "CHUNK_CHECKSUM")
	})
	t.Run("unsafe image", func(t *testing.T) {
		// A qcow2 header that names a backing file is refused long before the whole has come.
		header := make([]byte, 128<<10)
		copy(header, "QFI\xfb\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x48\x00\x00\x00\x0b\x00\x00\x00\x10")
		header[30] = 0x10 // a disk of 1 MiB
		copy(header[0x48:], "/etc/passwd")
		_, err := upload(ctx, client, metadata(newID(), nil), chunk(0, header), commit(nil))
		expectError(t, err, codes.Code(0), "UNSAFE_BACKING_FILE")
	})
}

// uploadInTwoStreams cuts an upload in the middle and goes on with it from what is durable.
func uploadInTwoStreams(
	ctx context.Context, t *testing.T, client imageopsv1.ImageOpsClient, content []byte,
) *imageopsv1.Image {
	t.Helper()
	id := newID()
	name := "uploads/" + id
	size := uint64(len(content))
	first, cut := context.WithCancel(ctx)
	stream, err := client.UploadImage(first)
	if err != nil {
		t.Fatal(err)
	}
	send(t, stream, metadata(id, &size))
	for offset := 0; offset < len(content)/2; offset += chunkBytes {
		send(t, stream, chunk(uint64(offset), content[offset:offset+chunkBytes]))
	}
	cut()

	durable := waitDurable(ctx, t, client, name)
	if durable == 0 || durable > size/2 {
		t.Fatalf("%d bytes are durable of the %d that were sent", durable, size/2)
	}
	_, err = upload(ctx, client, resume(name, durable+1))
	info := expectError(t, err, codes.OutOfRange, "WRONG_OFFSET")
	if got := info.GetMetadata()["durable_bytes"]; got != strconv.FormatUint(durable, 10) {
		t.Fatalf("durable_bytes is %q, want %d", got, durable)
	}

	messages := []*imageopsv1.UploadImageRequest{resume(name, durable)}
	for offset := durable; offset < size; offset += chunkBytes {
		messages = append(messages, chunk(offset, content[offset:min(offset+chunkBytes, size)]))
	}
	messages = append(messages, commit(&imageopsv1.Digests{Sha256: sha256Hex(content), Md5: md5Hex(content)}))
	answer, err := upload(ctx, client, messages...)
	if err != nil {
		t.Fatal(err)
	}
	if answer.GetUpload().GetState() != imageopsv1.UploadState_UPLOAD_STATE_COMMITTED {
		t.Fatalf("upload: %v", answer.GetUpload())
	}
	return answer.GetImage()
}

// waitDurable returns the durable offset of an upload whose stream was cut, once the server has noticed the cut and
// made durable what had come.
func waitDurable(ctx context.Context, t *testing.T, client imageopsv1.ImageOpsClient, name string) uint64 {
	t.Helper()
	last := uint64(0)
	for ctx.Err() == nil {
		answer, err := client.GetUpload(ctx, &imageopsv1.GetUploadRequest{Name: name})
		// The cut may have overtaken the first message; then there is no upload yet.
		if err != nil && status.Code(err) != codes.NotFound {
			t.Fatal(err)
		}
		now := answer.GetUpload().GetDurableBytes()
		if now > 0 && now == last {
			return now
		}
		last = now
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("nothing of the upload became durable")
	return 0
}

// upload sends messages on one stream and returns the answer. A server may answer before it has heard all.
func upload(
	ctx context.Context, client imageopsv1.ImageOpsClient, messages ...*imageopsv1.UploadImageRequest,
) (*imageopsv1.UploadImageResponse, error) {
	stream, err := client.UploadImage(ctx)
	if err != nil {
		return nil, err
	}
	for _, message := range messages {
		if err := stream.Send(message); errors.Is(err, io.EOF) {
			break // the status comes with CloseAndRecv
		} else if err != nil {
			return nil, err
		}
	}
	return stream.CloseAndRecv()
}

// watch follows a job to its end and checks the promises of the stream on the way.
func watch(ctx context.Context, t *testing.T, client imageopsv1.ImageOpsClient, name string) *imageopsv1.Job {
	t.Helper()
	stream, err := client.WatchStatus(ctx, &imageopsv1.WatchStatusRequest{Job: name})
	if err != nil {
		t.Fatal(err)
	}
	var last *imageopsv1.Job
	var revision uint64
	for first := true; ; first = false {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		snapshot := message.GetEvent() == imageopsv1.WatchEvent_WATCH_EVENT_SNAPSHOT
		if snapshot != first {
			t.Errorf("the snapshot comes first and once: %v", message)
		}
		if message.GetEvent() == imageopsv1.WatchEvent_WATCH_EVENT_HEARTBEAT {
			continue
		}
		if message.GetRevision() <= revision && !first {
			t.Errorf("revision %d after %d", message.GetRevision(), revision)
		}
		if got, before := message.GetJob().GetProgress().GetPercent(), last.GetProgress().GetPercent(); got < before {
			t.Errorf("percent fell from %v to %v", before, got)
		}
		revision, last = message.GetRevision(), message.GetJob()
	}
	if last.GetState() != imageopsv1.JobState_JOB_STATE_SUCCEEDED || last.GetProgress().GetPercent() != 100 {
		t.Fatalf("the last message is not of a job that succeeded: %v", last)
	}
	return last
}

// download reads an image, or a range of it, and checks each chunk.
func download(
	ctx context.Context, t *testing.T, client imageopsv1.ImageOpsClient, request *imageopsv1.DownloadImageRequest,
) (*imageopsv1.DownloadHeader, []byte) {
	t.Helper()
	stream, err := client.DownloadImage(ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	message, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	header := message.GetHeader()
	if header == nil {
		t.Fatalf("the first message is no header: %v", message)
	}
	var content []byte
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		piece := message.GetChunk()
		if want := header.GetOffsetBytes() + uint64(len(content)); piece.GetOffsetBytes() != want {
			t.Fatalf("a chunk at %d instead of %d", piece.GetOffsetBytes(), want)
		}
		if piece.Crc32C != nil && piece.GetCrc32C() != crc32.Checksum(piece.GetData(), castagnoli) {
			t.Fatalf("a damaged chunk at %d", piece.GetOffsetBytes())
		}
		content = append(content, piece.GetData()...)
	}
	if uint64(len(content)) != header.GetLengthBytes() {
		t.Fatalf("%d bytes came of %d", len(content), header.GetLengthBytes())
	}
	return header, content
}

// expectError checks a failure's code (0: any but OK) and the reason of its one ErrorInfo.
func expectError(t *testing.T, err error, code codes.Code, reason string) *errdetails.ErrorInfo {
	t.Helper()
	got := status.Convert(err)
	if got.Code() == codes.OK || code != codes.OK && got.Code() != code {
		t.Fatalf("got %v, want %v", err, code)
	}
	var infos []*errdetails.ErrorInfo
	for _, detail := range got.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			infos = append(infos, info)
		}
	}
	if len(infos) != 1 || infos[0].GetDomain() != "imageops" || infos[0].GetReason() != reason {
		t.Fatalf("details of %v: got %v, want the reason %s", err, infos, reason)
	}
	return infos[0]
}

func send(t *testing.T, stream imageopsv1.ImageOps_UploadImageClient, message *imageopsv1.UploadImageRequest) {
	t.Helper()
	if err := stream.Send(message); err != nil {
		t.Fatal(err)
	}
}

func metadata(id string, size *uint64) *imageopsv1.UploadImageRequest {
	return &imageopsv1.UploadImageRequest{Message: &imageopsv1.UploadImageRequest_Metadata{
		Metadata: &imageopsv1.UploadMetadata{RequestId: id, DisplayName: "from Go", SizeBytes: size},
	}}
}

func resume(name string, offset uint64) *imageopsv1.UploadImageRequest {
	return &imageopsv1.UploadImageRequest{Message: &imageopsv1.UploadImageRequest_Resume{
		Resume: &imageopsv1.UploadResume{Upload: name, OffsetBytes: offset},
	}}
}

func chunk(offset uint64, data []byte) *imageopsv1.UploadImageRequest {
	sum := crc32.Checksum(data, castagnoli)
	return &imageopsv1.UploadImageRequest{Message: &imageopsv1.UploadImageRequest_Chunk{
		Chunk: &imageopsv1.Chunk{OffsetBytes: offset, Data: data, Crc32C: &sum},
	}}
}

func commit(digests *imageopsv1.Digests) *imageopsv1.UploadImageRequest {
	return &imageopsv1.UploadImageRequest{Message: &imageopsv1.UploadImageRequest_Commit{
		Commit: &imageopsv1.UploadCommit{ExpectedDigests: digests},
	}}
}

func imageSource(image *imageopsv1.Image) *imageopsv1.Source {
	return &imageopsv1.Source{Source: &imageopsv1.Source_Image{Image: image.GetName()}}
}

// diskContent makes a raw disk of 20 MiB: text that deflates well, noise that does not, and zeros.
func diskContent() []byte {
	content := make([]byte, 0, 20<<20)
	for line := 0; len(content) < 8<<20; line++ {
		content = fmt.Appendf(content, "line %d of a file on the guest's disk\n", line)
	}
	noise := mathrand.NewChaCha8([32]byte([]byte("the same noise in every test run")))
	content = content[:12<<20]
	_, _ = noise.Read(content[8<<20:])
	return content[:20<<20]
}

// newID makes a UUID of version 4.
func newID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[0:4], id[4:6], id[6:8], id[8:10], id[10:])
}

func sha256Hex(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func md5Hex(data []byte) string {
	sum := md5.Sum(data)
	return hex.EncodeToString(sum[:])
}
