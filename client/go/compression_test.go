package imageops_test

import (
	"context"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/imageops/imageops/client/go/imageopsv1"
)

// Every choice of a compression goes over the wire: the job spells it out, and the result tells what it did.
func TestCompressionChoices(t *testing.T) {
	client, ctx := startServer(t), deadline(t)
	content := diskContent()
	answer, err := upload(ctx, client, uploadOf(content)...)
	if err != nil {
		t.Fatal(err)
	}
	image := answer.GetImage()

	t.Run("estimate", func(t *testing.T) {
		answer, err := client.EstimateCompression(ctx, &imageopsv1.EstimateCompressionRequest{
			Source:     imageSource(image),
			NamedLevel: imageopsv1.CompressionLevel_COMPRESSION_LEVEL_FAST,
			Window:     imageopsv1.CompressionWindow_COMPRESSION_WINDOW_NARROW,
			RequestId:  newID(),
		})
		if err != nil {
			t.Fatal(err)
		}
		job := watch(ctx, t, client, answer.GetJob().GetName())
		told := job.GetEstimate()
		if job.GetKind() != imageopsv1.JobKind_JOB_KIND_ESTIMATE || told.GetVirtualSizeBytes() != uint64(len(content)) {
			t.Errorf("not the estimate that was asked for: %v", job)
		}
		if about := told.GetEstimatedOutputBytes(); about == 0 || about >= uint64(len(content)) {
			t.Errorf("%d bytes would become %d", len(content), about)
		}
		if settings := job.GetCompression(); settings.GetLevel() != 2 {
			t.Errorf("the narrow window's fast level is another: %v", settings)
		}
	})

	t.Run("compress", func(t *testing.T) {
		first := compress(ctx, t, client, &imageopsv1.CompressRequest{
			Source:         imageSource(image),
			Compression:    imageopsv1.Compression_COMPRESSION_ZSTD,
			NamedLevel:     imageopsv1.CompressionLevel_COMPRESSION_LEVEL_SMALL,
			ShareIdentical: true,
		})
		settings := first.GetCompression()
		if settings.GetLevel() != 9 || !settings.GetShareIdentical() ||
			settings.GetRecompress() != imageopsv1.Recompress_RECOMPRESS_AUTO {
			t.Errorf("settings: %v", settings)
		}
		for recompress, copies := range map[imageopsv1.Recompress]bool{
			imageopsv1.Recompress_RECOMPRESS_AUTO:   true,
			imageopsv1.Recompress_RECOMPRESS_ALWAYS: false,
		} {
			again := compress(ctx, t, client, &imageopsv1.CompressRequest{
				Source:      &imageopsv1.Source{Source: &imageopsv1.Source_Image{Image: first.GetCompress().GetOutputImage()}},
				Compression: imageopsv1.Compression_COMPRESSION_ZSTD,
				Recompress:  recompress,
			}).GetCompress()
			if (again.GetCopiedBytes() > 0) != copies || again.GetContentProof() != first.GetCompress().GetContentProof() {
				t.Errorf("%v: %v", recompress, again)
			}
		}
	})

	t.Run("what no coder can do", func(t *testing.T) {
		_, err := client.Compress(ctx, &imageopsv1.CompressRequest{
			Source:      imageSource(image),
			Compression: imageopsv1.Compression_COMPRESSION_ZSTD,
			Window:      imageopsv1.CompressionWindow_COMPRESSION_WINDOW_NARROW,
		})
		expectError(t, err, codes.InvalidArgument, "COMPRESSION_WINDOW")
		for _, detail := range status.Convert(err).Details() {
			if bad, ok := detail.(*errdetails.BadRequest); ok && bad.GetFieldViolations()[0].GetField() == "window" {
				return
			}
		}
		t.Errorf("no violation of the field: %v", err)
	})
}

// compress runs a compression to its end.
func compress(
	ctx context.Context, t *testing.T, client imageopsv1.ImageOpsClient, request *imageopsv1.CompressRequest,
) *imageopsv1.Job {
	t.Helper()
	answer, err := client.Compress(ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	return watch(ctx, t, client, answer.GetJob().GetName())
}

// uploadOf lists the messages of an upload in one stream.
func uploadOf(content []byte) []*imageopsv1.UploadImageRequest {
	size := uint64(len(content))
	messages := []*imageopsv1.UploadImageRequest{metadata(newID(), &size)}
	for offset := 0; offset < len(content); offset += chunkBytes {
		messages = append(messages, chunk(uint64(offset), content[offset:min(offset+chunkBytes, len(content))]))
	}
	return append(messages, commit(nil))
}
