package machine

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"
	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/vfs"
)

// Edit opens the checkpoint in dir, which belongs to no replica, has edit change it, and makes the new directory to a checkpoint of what it is
// then, durable but for its own name. What is left in dir is of no use.
func Edit(dir, to string, o Options, edit func(fsm.Store) error) error {
	return vfs.Wrap("machine.edit", withCheckpoint(dir, o, func(db *pebble.DB) error {
		if err := edit(edited{live{db}}); err != nil {
			return err
		}
		if err := db.Flush(); err != nil {
			return err
		}
		return db.Checkpoint(to)
	}))
}

// Inspect opens the checkpoint in dir, which belongs to no replica, for reading.
func Inspect(dir string, o Options, read func(fsm.View) error) error {
	o.readOnly = true
	return vfs.Wrap("machine.inspect", withCheckpoint(dir, o, func(db *pebble.DB) error { return read(live{db}) }))
}

func withCheckpoint(dir string, o Options, fn func(*pebble.DB) error) error {
	if o.MemTableBytes <= 0 {
		o.MemTableBytes = DefaultMemTableBytes
	}
	if o.Files == nil {
		o.Files = vfile.OS{}
	}
	if o.PebbleFS == nil {
		o.PebbleFS = pvfs.Default
	}
	failed := make(chan error, 1) // the first that the store says
	note := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	db, err := openPebble(dir, o, note, note)
	if err != nil {
		return err
	}
	err = classify(noPanic(func() error { return fn(db) }))
	err = errors.Join(err, noPanic(db.Close))
	select {
	case said := <-failed:
		err = errors.Join(said, err)
	default:
	}
	return err
}

// edited is a store whose writes are seen at once.
type edited struct{ live }

func (e edited) Set(k, v []byte) error { return e.db.Set(k, v, pebble.NoSync) }
func (e edited) Delete(k []byte) error { return e.db.Delete(k, pebble.NoSync) }
