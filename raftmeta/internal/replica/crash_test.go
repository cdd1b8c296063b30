package replica

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/internal/vfile/crashtest"
)

// bolt says which files bbolt writes, past the file layer. raft-wal makes wal-meta.db under another name and syncs its directory.
var bolt = crashtest.Library{Names: []string{stableFile, boltLogFile, "wal-meta.db"}, SyncsName: []string{"wal-meta.db"}}

// promised is what a node has said of its replica: who it is, the entries in its log, its term.
type promised struct {
	id          string
	first, last uint64
	term        uint64
	replacing   bool // a new replica is being made in its place
	aside       bool // there was one before, which is kept
}

// bigEntry fills a segment after some.
func bigEntry(i uint64) *raft.Log {
	e := entry(i)
	e.Data = append(e.Data, make([]byte, 200<<10)...)
	return e
}

// openShard opens the node in dir and the log of its shard 1.
func openShard(files vfile.FS, dir string) (*Node, Info, *Logs, error) {
	n, err := OpenNode(files, dir)
	if err != nil {
		return nil, Info{}, nil, err
	}
	i, err := ReadInfo(files, dir, 1)
	if err != nil {
		return nil, Info{}, nil, errors.Join(err, n.Close())
	}
	l, err := OpenLogs(n.ShardDir(1), i, LogOptions{Files: files, WALSegmentBytes: minSegmentBytes})
	if err != nil {
		return nil, Info{}, nil, errors.Join(err, n.Close())
	}
	return n, i, l, nil
}

// checkPromises opens what a power cut left.
func checkPromises(root string) func(left *vfile.Mem, p promised) error {
	return func(left *vfile.Mem, p promised) (err error) {
		tmp, err := os.MkdirTemp(crashtest.Memory(), "crash")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		if err := crashtest.Export(left, root, tmp); err != nil {
			return err
		}
		dir := filepath.Join(tmp, "node", "meta")
		if p.id == "" {
			// The node is not formatted yet: it is done again.
			_, err := Format(vfile.OS{}, dir, cluster, "n1", []uint16{1}, WAL)
			return err
		}
		if p.replacing {
			// The old one, none or the new one. With none it is done again.
			i, err := ReadInfo(vfile.OS{}, dir, 1)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				p = promised{}
				if p.id, err = replaceShard(vfile.OS{}, dir, 9); err != nil {
					return err
				}
			case err != nil:
				return err
			case i.ID != p.id:
				p = promised{id: i.ID}
			}
		}
		n, i, l, err := openShard(vfile.OS{}, dir)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, l.Close(), n.Close()) }()
		if i.ID != p.id {
			return fmt.Errorf("the replica is %s", i.ID)
		}
		kept, err := filepath.Glob(filepath.Join(dir, "*"+damagedInfix+"*", replicaFile))
		if err == nil && p.aside && len(kept) == 0 {
			err = errors.New("the replica that was set aside is gone")
		}
		if err != nil {
			return err
		}
		for x := p.first; x <= p.last && p.last > 0; x++ {
			var e raft.Log
			if err := l.GetLog(x, &e); err != nil || string(e.Data) != string(bigEntry(x).Data) {
				return fmt.Errorf("entry %d: %w", x, err)
			}
		}
		if term, err := l.Stable.GetUint64([]byte("CurrentTerm")); p.term > 0 && (err != nil || term < p.term) {
			return fmt.Errorf("term %d: %w", term, err)
		}
		last, err := l.LastIndex()
		if err != nil {
			return err
		}
		return l.StoreLog(bigEntry(last + 1))
	}
}

// life is all that happens to a replica's directory.
func life(root string, log Backend) crashtest.Test[promised] {
	x := crashtest.Test[promised]{Check: checkPromises(root)}
	x.Run = func(d *crashtest.Disk[promised]) error {
		if err := errors.Join(os.RemoveAll(root), os.Mkdir(root, 0o700)); err != nil {
			return err
		}
		files, err := d.On(root, bolt)
		if err != nil {
			return err
		}
		if err := files.Mkdir(filepath.Join(root, "node")); err != nil { // by a process that died before it synced it
			return err
		}
		dir := filepath.Join(root, "node", "meta")
		unshown := crashtest.DiesAt(files, crashtest.OpSyncDir, "meta", 3)
		if _, err := Format(unshown, dir, cluster, "n1", []uint16{1}, log); err == nil || !unshown.Died() {
			return fmt.Errorf("the process did not die before the name of the replica is synced: %v", err)
		}
		is, err := Format(files, dir, cluster, "n1", []uint16{1}, log)
		if err != nil {
			return err
		}
		d.Ack(func(p *promised) { p.id = is[0].ID })
		// Processes that live: each sets a term, stores entries and drops older ones. In between one that dies
		// before the name of its new segment is synced, and one before its last entry is.
		unnamed := crashtest.DiesAt(files, crashtest.OpSyncDir, "wal", 2)
		unwritten := crashtest.DiesAt(files, crashtest.OpSync, "*", 3)
		for term, files := range []vfile.FS{files, files, unnamed, files, unwritten, files} {
			if err := processLife(d, files, dir, uint64(term)+1); err != nil {
				return err
			}
		}
		if err := shorten(d, files, dir); err != nil {
			return err
		}
		for day := 1; day <= 2; day++ {
			d.Ack(func(p *promised) { p.replacing, p.aside = true, false })
			id, err := replaceShard(files, dir, day)
			if err != nil {
				return err
			}
			d.Ack(func(p *promised) { *p = promised{id: id, aside: true} })
			if err := processLife(d, files, dir, uint64(day)); err != nil {
				return err
			}
		}
		if !unnamed.Died() || !unwritten.Died() {
			return fmt.Errorf("the processes did not die")
		}
		return nil
	}
	return x
}

// replaceShard has a new replica take the place of shard 1's on some day.
func replaceShard(files vfile.FS, dir string, day int) (id string, err error) {
	n, err := OpenNode(files, dir)
	if err != nil {
		return "", err
	}
	i, _, err := n.Replace(1, WAL, time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC))
	return i.ID, errors.Join(err, n.Close())
}

// shorten deletes entries at the end of the log, as when another leader has others, after the system wrote the tail back.
func shorten(d *crashtest.Disk[promised], files vfile.FS, dir string) error {
	n, _, l, err := openShard(files, dir)
	if err != nil {
		return err
	}
	last, err := l.LastIndex()
	if err != nil {
		return err
	}
	for i := last + 1; i <= last+3; i++ {
		if err := l.StoreLog(bigEntry(i)); err != nil {
			return err
		}
		d.Ack(func(p *promised) { p.last = i })
	}
	tail, err := d.Files.Open(filepath.Join(n.ShardDir(1), tailFile))
	if err != nil {
		return err
	}
	if err := errors.Join(tail.Sync(), tail.Close()); err != nil {
		return err
	}
	d.Ack(func(p *promised) { p.last = last + 1 })
	if err := l.DeleteRange(last+2, last+3); err != nil {
		return err
	}
	err = l.StoreLog(bigEntry(last + 2))
	d.Ack(func(p *promised) { p.last = last + 2 })
	return errors.Join(err, l.Close(), n.Close())
}

// processLife is one process, which ends early if files say so.
func processLife(d *crashtest.Disk[promised], files vfile.FS, dir string, term uint64) error {
	n, _, l, err := openShard(files, dir)
	if err != nil {
		return err
	}
	if err := l.Stable.SetUint64([]byte("CurrentTerm"), term); err != nil {
		return err
	}
	last, err := l.LastIndex()
	if err != nil {
		return err
	}
	d.Ack(func(p *promised) { p.term, p.last = term, max(p.last, last) }) // what is read counts
	for i := last + 1; i <= last+8; i++ {
		if err := l.StoreLog(bigEntry(i)); err != nil {
			return errors.Join(l.Close(), n.Close())
		}
		d.Ack(func(p *promised) { p.first, p.last = max(p.first, 1), i })
	}
	d.Ack(func(p *promised) { p.first = last + 7 })
	return errors.Join(l.DeleteRange(1, last+6), l.Close(), n.Close())
}

// After a power cut at any moment a node that was formatted has its replica, with each entry and term it acknowledged, and each
// sync of ours is needed for that.
func TestEverySync(t *testing.T) {
	tmp, err := os.MkdirTemp(crashtest.Memory(), "crash")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(tmp)
	life(filepath.Join(tmp, "root"), WAL).Prove(t, []crashtest.Site{
		{Call: "replica.Format > MkdirAllSync: dir root"},
		{Call: "replica.Format > MkdirAllSync: dir node"},
		{Call: "replica.Format > MkdirAllSync: dir meta", Nothing: "Format syncs it again at its end"},
		{Call: "replica.writeJSON > WriteFileAtomic: file"},
		{Call: "replica.writeJSON > WriteFileAtomic: dir meta"},
		{Call: "replica.writeJSON > WriteFileAtomic: dir shard-N.tmp", Nothing: "create syncs it again when it is complete"},
		{Call: "replica.makeTail: file"},
		{Call: "replica.create: dir shard-N.tmp"},
		{Call: "replica.Format: dir meta"},
		{Call: "replica.tail.lower: file"},
		{Call: "replica.Node.Replace: dir meta"},
		{Call: "replica.walFile.Sync: file"},
		{Call: "replica.walFS.Create: file", Nothing: "the first sync of entries makes the size durable too, and what a cut before it leaves can be opened; it takes the allocation out of the first acknowledgement"},
		{Call: "replica.walFS.Create: dir wal"},
		{Call: "replica.walFS.Delete: dir wal", Nothing: "raft-wal removes what is not in its list when it opens the log; the sync bounds how long the space stays taken"},
		{Call: "replica.walFS.OpenWriter: file"},
		{Call: "replica.openWAL: dir wal"},
	})
}
