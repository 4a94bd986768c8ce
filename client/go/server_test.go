package imageops_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/imageops/imageops/client/go/imageopsv1"
)

// serverBinary names the variable with the path of the imageops-server program.
const serverBinary = "IMAGEOPS_SERVER_BIN"

// startServer runs the real server and gives a client of its work.
func startServer(t *testing.T) imageopsv1.ImageOpsClient {
	t.Helper()
	return imageopsv1.NewImageOpsClient(startConnection(t))
}

// startConnection runs the real server on a free port and directories of its own, and connects to it.
// The test is skipped when it is not told where the program is.
func startConnection(t *testing.T) *grpc.ClientConn {
	t.Helper()
	binary := os.Getenv(serverBinary)
	if binary == "" {
		t.Skipf("%s is not set: no server to test with; cargo xtask test builds one and sets it", serverBinary)
	}
	directory := t.TempDir()
	images := filepath.Join(directory, "images")
	if err := os.Mkdir(images, 0o755); err != nil {
		t.Fatal(err)
	}
	server := exec.Command(binary,
		"--data-dir", filepath.Join(directory, "data"), "--image-path", images,
		"--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
	server.Stderr = os.Stderr
	output, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})

	address := make(chan string, 1)
	go func() {
		defer close(address)
		// Read to the end: a full pipe would stop the server.
		for lines := bufio.NewScanner(output); lines.Scan(); {
			if found, ok := strings.CutPrefix(lines.Text(), "gRPC listening on "); ok {
				address <- strings.TrimSpace(found)
			}
		}
	}()
	var target string
	select {
	case target = <-address:
	case <-time.After(time.Minute):
	}
	if target == "" {
		t.Fatal("the server did not say where it listens")
	}
	connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return connection
}

// deadline bounds a test: nothing here may wait for ever.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}
