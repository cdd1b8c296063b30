package devcluster_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/devcluster"
	"github.com/rackfs/rackfs/internal/transfer"
)

// BenchmarkTransfer compares whole files by HTTP with the same by NFS, in one run: each operation writes, or reads, a file of 64 MiB, four at a time. Writes are durable at
// their end. All roles and the clients are in this process. cli is what `rackfs storage` does, from and to files of this machine.
func BenchmarkTransfer(b *testing.B) { benchTransfer(b, "127.0.0.1:0") }

// BenchmarkTransferTLS is BenchmarkTransfer with HTTP over TLS; NFS has none.
func BenchmarkTransferTLS(b *testing.B) { benchTransfer(b, "0.0.0.0:0") }

func benchTransfer(b *testing.B, address string) {
	c, err := devcluster.Start(b.Context(), devcluster.Config{DataDir: filepath.Join(b.TempDir(), "data"), NFSAddr: "127.0.0.1:0", APIAddr: address})
	if err != nil {
		b.Fatal(err)
	}
	defer stopCluster(b, c)
	cl, root := dial(b, c, 4)
	defer cl.Close(context.Background())
	e := api.Endpoint{URL: c.APIURL(), Token: c.Token()}
	if strings.HasPrefix(e.URL, "https://") {
		e.URL, e.CA = "https://127.0.0.1"+e.URL[strings.LastIndexByte(e.URL, ':'):], c.CAFingerprint()
	}
	k, err := api.Connect(e)
	if err != nil {
		b.Fatal(err)
	}
	defer k.Close()
	tree := k.Tree("", "default")
	const streams, size, mib = 4, 64 << 20, 1 << 20
	data := make([]byte, size)
	rand.Read(data)
	end := func(p string) transfer.End {
		return transfer.End{Client: k, Tree: tree, FileSystem: "default", Path: p}
	}
	local := filepath.Join(b.TempDir(), "file")
	if err := os.WriteFile(local, data, 0o600); err != nil {
		b.Fatal(err)
	}
	name := func(by string, w int) string { return fmt.Sprintf("%s-%d", by, w) }
	b.Run("nfs-write", func(b *testing.B) {
		b.SetBytes(size)
		run(b, streams, func(ctx context.Context, w, _ int) error {
			f, err := cl.Create(ctx, root, name("nfs", w), 0o644)
			if err != nil {
				return err
			}
			for off := 0; off < size; off += mib {
				if _, err := cl.Write(ctx, f, uint64(off), nfsv4.UNSTABLE4, data[off:off+mib]); err != nil {
					return err
				}
			}
			if _, err := cl.Commit(ctx, f.FH, 0, 0); err != nil {
				return err
			}
			return cl.CloseFile(ctx, f)
		})
	})
	b.Run("http-upload", func(b *testing.B) {
		b.SetBytes(size)
		run(b, streams, func(ctx context.Context, w, _ int) error {
			_, err := tree.Upload(ctx, "/"+name("http", w), bytes.NewReader(data), api.Put{Length: size})
			return err
		})
	})
	b.Run("cli-upload", func(b *testing.B) {
		b.SetBytes(size)
		run(b, streams, func(ctx context.Context, w, _ int) error {
			_, err := transfer.Upload(ctx, local, end("/"+name("cli", w)), false, transfer.Options{})
			return err
		})
	})
	// What is read is there whatever -benchtime is.
	for w := range streams {
		if _, err := tree.Upload(b.Context(), "/"+name("http", w), bytes.NewReader(data), api.Put{Length: size}); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("nfs-read", func(b *testing.B) {
		b.SetBytes(size)
		var files [streams]*nfsclient.File
		for w := range files {
			f, err := cl.Create(b.Context(), root, name("read", w), 0o644)
			if err != nil {
				b.Fatal(err)
			}
			for off := 0; off < size; off += mib {
				if _, err := cl.Write(b.Context(), f, uint64(off), nfsv4.UNSTABLE4, data[off:off+mib]); err != nil {
					b.Fatal(err)
				}
			}
			if _, err := cl.Commit(b.Context(), f.FH, 0, 0); err != nil {
				b.Fatal(err)
			}
			files[w] = f
		}
		var bufs [streams][]byte
		for w := range bufs {
			bufs[w] = make([]byte, mib)
		}
		run(b, streams, func(ctx context.Context, w, _ int) error {
			for off := 0; off < size; off += mib {
				if n, _, err := cl.Read(ctx, files[w], uint64(off), bufs[w]); err != nil || n != mib {
					return fmt.Errorf("%d bytes, %w", n, err)
				}
			}
			return nil
		})
	})
	b.Run("http-download", func(b *testing.B) {
		b.SetBytes(size)
		run(b, streams, func(ctx context.Context, w, _ int) error {
			in, err := tree.Download(ctx, "/"+name("http", w), 0, "")
			if err != nil {
				return err
			}
			defer in.Close()
			n, err := io.Copy(io.Discard, in)
			if err == nil && n != size {
				err = fmt.Errorf("%d bytes", n)
			}
			return err
		})
	})
	b.Run("cli-download", func(b *testing.B) {
		b.SetBytes(size)
		dir := b.TempDir()
		run(b, streams, func(ctx context.Context, w, _ int) error {
			_, err := transfer.Download(ctx, end("/"+name("http", w)), filepath.Join(dir, name("down", w)), false, transfer.Options{})
			return err
		})
	})
}
