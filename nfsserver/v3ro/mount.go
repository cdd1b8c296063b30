package v3ro

import (
	"context"
	"strings"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/rpc"
)

// serveMount serves program 100005 (RFC 1813, 5).
func (s *Server) serveMount(ctx context.Context, req *rpc.Request) {
	switch req.Proc {
	case procMountNull, procUnmount, procUnmountAll: // nothing is remembered of mounts
	case procDump:
		req.Reply.B = xdr.AppendBool(req.Reply.B, false)
	case procExport:
		c := s.begin(ctx, req)
		req.Reply.B = xdr.AppendBool(c.exports(req.Reply.B, c.table.Root(), "", len(req.Reply.B)+maxListing), false)
	case procMount:
		d := xdr.NewDecoder(req.Body)
		path := d.String(maxPath)
		if d.Err() != nil {
			req.GarbageArgs()
			return
		}
		c := s.begin(ctx, req)
		st := c.mount(path)
		if st != stOK {
			s.cfg.Logger.Info("nfs3: mount refused", "path", path, "remote", c.from, "status", st)
			req.Reply.Truncate(req.Reply.Start())
			req.Reply.B = xdr.AppendUint32(req.Reply.B, mountStatus(st))
		}
	default:
		req.ProcUnavail()
	}
}

// exports appends an element of the list of EXPORT for each export below n that the client may use, with the network that lets it in; none for all
// networks. What would go beyond limit is left out.
func (c *call) exports(b []byte, n *export.Node, path string, limit int) []byte {
	for _, child := range n.Children(0, c.from) {
		at := path + "/" + child.Name
		if e := child.Covered(c.from); e != nil {
			entry := xdr.AppendString(xdr.AppendBool(nil, true), at)
			if from := e.Rule(c.from).Clients; from.Bits() > 0 {
				entry = xdr.AppendString(xdr.AppendBool(entry, true), from.String())
			}
			entry = xdr.AppendBool(entry, false)
			if len(b)+len(entry) > limit {
				return b
			}
			b = append(b, entry...)
		}
		b = c.exports(b, child, at, limit)
	}
	return b
}

// mount answers MNT with the handle of a directory.
func (c *call) mount(path string) status {
	if st := c.walk(path); st != stOK {
		return st
	}
	e, err := c.s.takeEngine(c.ctx)
	if err != nil {
		return statusOf(err)
	}
	v := view{object: c.attr, handle: c.handleOf(c.attr.Ino)}
	results, err := e.call(c.ctx, &v, mountProgram, procMount, xdr.AppendString(nil, "/dir"))
	c.s.putEngine(e)
	if err != nil {
		return c.broken(err)
	}
	c.req.Reply.B = append(c.req.Reply.B, results...)
	return stOK
}

// walk makes the directory with a path the object: down the pseudo file system to the export that is there for the client, then in its
// file system.
func (c *call) walk(path string) status {
	n := c.table.Root()
	for part := range strings.SplitSeq(path, "/") {
		if part == "" {
			continue
		}
		if c.export == nil {
			if n = n.Lookup(part, c.from); n == nil {
				return stNoEnt
			}
			if e := n.Covered(c.from); e != nil {
				if st := c.enterRoot(e); st != stOK {
					return st
				}
			}
			continue
		}
		if part == "." || part == ".." {
			return stInval
		}
		a, st := c.lookup(part)
		if st != stOK {
			return st
		}
		c.attr = a
	}
	switch {
	case c.export == nil:
		return stNoEnt
	case !c.attr.IsDir():
		return stNotDir
	}
	return stOK
}

// enterRoot makes the root of an export the object.
func (c *call) enterRoot(e *export.Export) status {
	if st := c.enter(e, export.Mounting); st != stOK {
		return st
	}
	var err error
	if c.attr, err = e.FS.GetAttr(c.ctx, e.RootIno()); err != nil {
		return statusOf(err)
	}
	if !c.inside(&c.attr) {
		return stStale
	}
	return stOK
}
