package pki

import (
	"fmt"
	"testing"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/internal/vfile/crashtest"
	"github.com/rackfs/rackfs/vfs"
)

// shown is what somebody was told: the fingerprints of two CAs, and the name of the identity in a node's directory.
type shown struct{ ca, second, node string }

// After a power cut at any moment there is no other CA than the one that was shown to somebody, and a node has the identity that
// was saved last or, while it is replaced, none.
func TestEverySync(t *testing.T) {
	other := newCA(t)
	one, two := issue(t, other, "node-1"), issue(t, other, "node-2")
	crashtest.Test[shown]{
		Run: func(d *crashtest.Disk[shown]) error {
			if err := d.Files.Mkdir("/data"); err != nil { // by a process that died before it synced it
				return err
			}
			// Makers of the CA that die before a name is synced: of the key, then of the certificate.
			for range 2 {
				dying := crashtest.DiesAt(d.Files, crashtest.OpSyncDir, "pki", 2)
				if _, err := LoadOrCreateCA(dying, "/data/pki", "test", now); err == nil || !dying.Died() {
					return fmt.Errorf("the process did not die: %v", err)
				}
			}
			ca, err := LoadOrCreateCA(d.Files, "/data/pki", "test", now)
			if err != nil {
				return err
			}
			d.Ack(func(s *shown) { s.ca = ca.Fingerprint() })
			// The maker of another one lives.
			if ca, err = LoadOrCreateCA(d.Files, "/data/second/pki", "test", now); err != nil {
				return err
			}
			d.Ack(func(s *shown) { s.second = ca.Fingerprint() })
			if err := one.Save(d.Files, "/data/node"); err != nil {
				return err
			}
			d.Ack(func(s *shown) { s.node = "node-1" })
			d.Ack(func(s *shown) { s.node = "" }) // it is being replaced
			if err := two.Save(d.Files, "/data/node"); err != nil {
				return err
			}
			d.Ack(func(s *shown) { s.node = "node-2" })
			return nil
		},
		Check: func(left *vfile.Mem, s shown) error {
			for dir, want := range map[string]string{"/data/pki": s.ca, "/data/second/pki": s.second} {
				ca, err := LoadOrCreateCA(left, dir, "test", now)
				if err != nil {
					return err
				}
				if want != "" && ca.Fingerprint() != want {
					return fmt.Errorf("another CA in %s", dir)
				}
			}
			id, err := LoadIdentity(left, "/data/node")
			if vfs.KindOf(err) == vfs.KindNotFound && s.node == "" {
				return nil
			}
			if err != nil {
				return err
			}
			if s.node != "" && id.Name() != s.node {
				return fmt.Errorf("the identity is of %s", id.Name())
			}
			return nil
		},
	}.Prove(t, []crashtest.Site{
		{Call: "pki.CreateCA > MkdirAllSync: dir /"},
		{Call: "pki.CreateCA > MkdirAllSync: dir data"},
		{Call: "pki.CreateCA > MkdirAllSync: dir pki", Nothing: "the write of the key syncs it again"},
		{Call: "pki.writeKey > WriteFileAtomic: file"},
		{Call: "pki.writeKey > WriteFileAtomic: dir pki"},
		{Call: "pki.writeCert > WriteFileModeAtomic: file"},
		{Call: "pki.writeCert > WriteFileModeAtomic: dir pki"},
		{Call: "pki.CreateCA > MkdirAllSync: dir second"},
		{Call: "pki.LoadCA > Adopt: dir pki"},
		{Call: "pki.Identity.Save > MkdirAllSync: dir /", Nothing: "CreateCA did"},
		{Call: "pki.Identity.Save > MkdirAllSync: dir data"},
		{Call: "pki.Identity.Save > MkdirAllSync: dir node", Nothing: "the write of the key syncs it again"},
		{Call: "pki.removeSync: dir node"},
		{Call: "pki.writeKey > WriteFileAtomic: dir node", Nothing: "the write of the CA's certificate, before the node's, syncs it again"},
		{Call: "pki.writeCert > WriteFileModeAtomic: dir node"},
	})
}
