//go:build linux

package cluster

import (
	"bytes"
	"context"
	encoding "encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/bench/nfsclient/attr"
)

// readBack compares all that was acknowledged with what a client reads through a gateway that has nothing of it. Nobody changes anything meanwhile.
func (w *work) readBack(ctx context.Context, m *machine) error {
	c, err := w.f.roam(ctx, fmt.Sprintf("reader of %s, %v", m.name, time.Now().UnixNano()), "", m)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(ctx) }()
	file := func(dir nfsclient.FH, name string, want []byte) error {
		got, err := readAll(ctx, c, dir, name)
		if err != nil {
			return fmt.Errorf("read %s through %s: %w", name, m.name, err)
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%s through %s: %d bytes that differ from the %d that were acknowledged, first at %d", name, m.name, len(got), len(want), differs(got, want))
		}
		return nil
	}
	top := map[string]bool{"number": true, "log": true}
	if err := file(w.dir, "log", w.log); err != nil {
		return err
	}
	number := []byte(nil)
	if w.number > 0 {
		number = encoding.BigEndian.AppendUint64(nil, w.number)
	}
	if err := file(w.dir, "number", number); err != nil {
		return err
	}
	for k, n := range w.names {
		switch {
		case n.maker == 0:
			return fmt.Errorf("several wanted to make name %d, and each was told that another one did", k)
		case n.remover == 0:
			if n.absent {
				return fmt.Errorf("several wanted to remove name %d, and each was told that another one did", k)
			}
			top[contendedName(k)] = true
		}
	}
	for _, h := range w.workers {
		top[fmt.Sprint("w", h.id)], top[registerName(h.id)] = true, true
		if v := h.own.acknowledged.Load(); v > 0 {
			if err := file(w.dir, registerName(h.id), versions(v, registerSizes[h.id%len(registerSizes)])); err != nil {
				return err
			}
		}
		for name, want := range h.files {
			if err := file(h.dir, name, want); err != nil {
				return fmt.Errorf("of worker %d: %w", h.id, err)
			}
		}
		if err := same2(ctx, c, h.dir, h.files); err != nil {
			return fmt.Errorf("directory of worker %d through %s: %w", h.id, m.name, err)
		}
	}
	if err := same2(ctx, c, w.dir, top); err != nil {
		return fmt.Errorf("directory through %s: %w", m.name, err)
	}
	return nil
}

// same2 compares the names of a directory.
func same2[T any](ctx context.Context, c *roamer, dir nfsclient.FH, want map[string]T) error {
	es, err := c.Readdir(ctx, dir, nil)
	if err != nil {
		return err
	}
	var got []string
	for _, e := range es {
		got = append(got, e.Name)
	}
	slices.Sort(got)
	if names := slices.Sorted(maps.Keys(want)); !slices.Equal(got, names) {
		return fmt.Errorf("it has %v, want %v", got, names)
	}
	return nil
}

// inodes is how many files and directories the work has now.
func (w *work) inodes() uint64 {
	n := 3 + len(w.names) - w.removed // the directory, the number, the log
	for _, h := range w.workers {
		n += 2 + len(h.files)
	}
	return uint64(n)
}

// clear closes and removes everything.
func (w *work) clear(ctx context.Context) error {
	for _, h := range w.workers {
		for _, f := range h.opened {
			if err := h.x.CloseFile(ctx, f); err != nil {
				return fmt.Errorf("close: %w", err)
			}
		}
		for _, f := range h.registers {
			if err := h.y.CloseFile(ctx, f); err != nil {
				return fmt.Errorf("close: %w", err)
			}
		}
		h.opened, h.registers = nil, nil
	}
	for _, x := range w.watches {
		for _, f := range x.files {
			if err := x.at.CloseFile(ctx, f); err != nil {
				return fmt.Errorf("close: %w", err)
			}
		}
		x.files = nil
	}
	c := w.workers[0].x
	var empty func(dir nfsclient.FH) error
	empty = func(dir nfsclient.FH) error {
		es, err := c.Readdir(ctx, dir, attr.Stat())
		if err != nil {
			return err
		}
		for _, e := range es {
			if e.Attr.Type == nfsv4.NF4DIR {
				fh, _, err := c.Lookup(ctx, dir, e.Name)
				if err != nil {
					return err
				}
				if err := empty(fh); err != nil {
					return err
				}
			}
			if err := c.Remove(ctx, dir, e.Name); err != nil {
				return fmt.Errorf("remove %s: %w", e.Name, err)
			}
		}
		return nil
	}
	if err := empty(w.dir); err != nil {
		return err
	}
	es, err := c.Readdir(ctx, c.root, nil)
	if err != nil {
		return err
	}
	for _, e := range es {
		if fh, _, err := c.Lookup(ctx, c.root, e.Name); err != nil {
			return err
		} else if fh == w.dir {
			if err := c.Remove(ctx, c.root, e.Name); err != nil {
				return err
			}
		}
	}
	return nil
}
