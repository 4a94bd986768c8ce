package imageops_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/imageops/imageops/client/go/imageopsv1"
)

// Checks a file below the server's image root and follows the job to its end.
func Example() {
	connection, err := grpc.NewClient("127.0.0.1:50051", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	client := imageopsv1.NewImageOpsClient(connection)

	ctx := context.Background()
	answer, err := client.Check(ctx, &imageopsv1.CheckRequest{
		Source: &imageopsv1.Source{Source: &imageopsv1.Source_File{File: "debian.qcow2"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	stream, err := client.WatchStatus(ctx, &imageopsv1.WatchStatusRequest{Job: answer.GetJob().GetName()})
	if err != nil {
		log.Fatal(err)
	}
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return // the message before was the job's last
		}
		if err != nil {
			log.Fatal(err)
		}
		// A heartbeat has no job.
		if job := message.GetJob(); job != nil {
			fmt.Printf("%v %.1f %% %v\n", job.GetState(), job.GetProgress().GetPercent(), job.GetCheck())
		}
	}
}
