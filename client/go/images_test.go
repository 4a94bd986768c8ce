package imageops_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/imageops/imageops/client/go/imageopsv1"
)

// The record of an image: described with a field mask, listed by its label, deleted, taken back and purged.
func TestImageRecords(t *testing.T) {
	connection, ctx := startConnection(t), deadline(t)
	work, images := imageopsv1.NewImageOpsClient(connection), imageopsv1.NewImagesClient(connection)
	stored := uploadInTwoStreams(ctx, t, work, diskContent())
	name := stored.GetName()

	updated, err := images.UpdateImage(ctx, &imageopsv1.UpdateImageRequest{
		Image:      &imageopsv1.Image{Name: name, Etag: stored.GetEtag(), Labels: map[string]string{"team": "edge"}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels"}},
	})
	if err != nil || updated.GetImage().GetLabels()["team"] != "edge" {
		t.Fatalf("not described: %v, %v", updated, err)
	}
	_, err = images.DeleteImage(ctx, &imageopsv1.DeleteImageRequest{Name: name, Etag: stored.GetEtag()})
	if status.Code(err) != codes.Aborted {
		t.Errorf("deleted by a stale etag: %v", err)
	}
	list := &imageopsv1.ListImagesRequest{Labels: map[string]string{"team": "edge"}}
	listed, err := images.ListImages(ctx, list)
	if err != nil || len(listed.GetImages()) != 1 || listed.GetImages()[0].GetName() != name {
		t.Fatalf("not listed: %v, %v", listed, err)
	}
	if _, err = images.DeleteImage(ctx, &imageopsv1.DeleteImageRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
	if listed, err = images.ListImages(ctx, list); err != nil || len(listed.GetImages()) != 0 {
		t.Errorf("listed from the trash: %v, %v", listed, err)
	}
	restored, err := images.RestoreImage(ctx, &imageopsv1.RestoreImageRequest{Name: name})
	if err != nil || restored.GetImage().GetState() != imageopsv1.ImageState_IMAGE_STATE_ACTIVE {
		t.Fatalf("not taken back: %v, %v", restored, err)
	}
	if _, err = images.DeleteImage(ctx, &imageopsv1.DeleteImageRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
	if _, err = images.PurgeImage(ctx, &imageopsv1.PurgeImageRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
	if _, err = images.GetImage(ctx, &imageopsv1.GetImageRequest{Name: name}); status.Code(err) != codes.NotFound {
		t.Errorf("not gone: %v", err)
	}
}
