package pebblefs

import (
	"runtime"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
)

// WithoutPanic is fs for a Pebble whose directories cannot always be synced. Pebble panics when the sync of one fails (vfs/atomicfs,
// Marker.Move), on a goroutine of its own, which ends the process. Here fatal is told, and the goroutine ends; the store is lost
// as after a Fatalf.
func WithoutPanic(fs pvfs.FS, fatal func(error)) pvfs.FS { return &calmFS{fs, fatal} }

type calmFS struct {
	pvfs.FS
	fatal func(error)
}

func (c *calmFS) OpenDir(name string) (pvfs.File, error) {
	f, err := c.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &calmDir{f, c.fatal}, nil
}

// Unwrap implements pvfs.FS.
func (c *calmFS) Unwrap() pvfs.FS { return c.FS }

type calmDir struct {
	pvfs.File
	fatal func(error)
}

func (d *calmDir) Sync() error {
	if err := d.File.Sync(); err != nil {
		d.fatal(err)
		runtime.Goexit()
	}
	return nil
}
