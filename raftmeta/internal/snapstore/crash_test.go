package snapstore

import (
	"fmt"
	"io"
	"log/slog"
	"testing"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/internal/vfile/crashtest"
)

// A snapshot that was closed is there after a power cut at any moment, whole, and each sync of ours is needed for that.
func TestEverySync(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	source := open(t, 1)
	received := stream(t, source, take(t, source, 50))
	crashtest.Test[uint64]{
		Run: func(d *crashtest.Disk[uint64]) error {
			if err := d.Files.Mkdir("/shard"); err != nil { // by a process that died before it synced it
				return err
			}
			s, err := Open(d.Files, "/shard/snapshots", 1, quiet)
			if err != nil {
				return err
			}
			for index := uint64(1); index <= 3; index++ { // the third removes the first
				sink, err := s.Create(1, index, 1, conf, 1, nil)
				if err != nil {
					return err
				}
				if index == 2 {
					_, err = sink.Write(received)
				} else {
					err = sink.(*Sink).Checkpoint(index, func(dir string) error { return checkpoint(d.Files, dir) })
				}
				if err != nil {
					return err
				}
				if err := sink.Close(); err != nil {
					return err
				}
				d.Ack(func(newest *uint64) { *newest = index })
			}
			// A process that dies before the name of its snapshot is synced. The next one sees the snapshot, and relies on it.
			dying := crashtest.DiesAt(d.Files, crashtest.OpSyncDir, "snapshots", 2)
			if s, err = Open(dying, "/shard/snapshots", 1, quiet); err != nil {
				return err
			}
			sink, err := s.Create(1, 4, 1, conf, 1, nil)
			if err != nil {
				return err
			}
			if err := sink.(*Sink).Checkpoint(4, func(dir string) error { return checkpoint(d.Files, dir) }); err != nil {
				return err
			}
			if err := sink.Close(); err == nil || !dying.Died() {
				return fmt.Errorf("the process did not die: %v", err)
			}
			if s, err = Open(d.Files, "/shard/snapshots", 1, quiet); err != nil {
				return err
			}
			if l, err := s.List(); err != nil || len(l) != 2 || l[0].Index != 4 {
				return fmt.Errorf("the snapshot of the dead process is not seen: %v, %w", l, err)
			}
			d.Ack(func(newest *uint64) { *newest = 4 })
			return nil
		},
		Check: func(left *vfile.Mem, newest uint64) error {
			if err := vfile.MkdirAllSync(left, "/shard"); err != nil {
				return err
			}
			s, err := Open(left, "/shard/snapshots", 1, quiet)
			if err != nil {
				return err
			}
			r, err := s.Newest()
			if err != nil {
				return err
			}
			if r == nil {
				if newest > 0 {
					return fmt.Errorf("no snapshot")
				}
				return nil
			}
			defer r.Close()
			if r.Record.Index < newest {
				return fmt.Errorf("the newest snapshot is %d", r.Record.Index)
			}
			_, err = io.Copy(io.Discard, r)
			return err
		},
	}.Prove(t, []crashtest.Site{
		{Call: "snapstore.Open > MkdirAllSync: dir /"},
		{Call: "snapstore.Open > MkdirAllSync: dir shard"},
		{Call: "snapstore.Open > MkdirAllSync: dir snapshots", Nothing: "Open syncs it again"},
		{Call: "snapstore.Open: dir snapshots"},
		{Call: "snapstore.unpackFile: file"},
		{Call: "snapstore.unpack: dir db"},
		{Call: "snapstore.writeRecord > WriteFileAtomic: file"},
		{Call: "snapstore.writeRecord > WriteFileAtomic: dir N-N-N.tmp"},
		{Call: "snapstore.Sink.Close: dir snapshots"},
	})
}

// checkpoint makes a directory with files, durably but for its own name, as Pebble does.
func checkpoint(files vfile.FS, dir string) error {
	if err := files.Mkdir(dir); err != nil {
		return err
	}
	for i := range 3 {
		f, err := files.Create(fmt.Sprintf("%s/%06d.sst", dir, i))
		if err != nil {
			return err
		}
		if _, err := f.WriteAt(make([]byte, 100), 0); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return files.SyncDir(dir)
}
