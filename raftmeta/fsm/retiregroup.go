package fsm

import (
	"slices"
	"strings"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// retireGroup begins the end of a group. From here on everything that could be the last thing in it ends the group too (endGroup), so nobody
// has to ask again.
func (x *call) retireGroup(c *metapb.RetireGroup) (*metapb.Result, error) {
	const op = "group.retire"
	var g metapb.NodeGroup
	if had, err := x.getRecord(appendGroup(c.Name), &g); err != nil {
		return nil, err
	} else if !had || g.Id != c.Id || g.Retiring {
		return x.changedMap() // a repeated command
	}
	if err := x.unused(op, c.Name); err != nil {
		return nil, err
	}
	g.Retiring = true
	if err := x.setMapRecord(appendGroup(c.Name), &g); err != nil {
		return nil, err
	}
	if err := x.endGroup(c.Name); err != nil {
		return nil, err
	}
	return x.changedMap()
}

// unused refuses a group that has what somebody may still want: nodes, racks, and file systems whose data is not being destroyed.
func (x *call) unused(op, name string) error {
	nodes, err := records(x, nodePrefix, func(n *metapb.Node) bool { return n.Group == name })
	if err != nil {
		return err
	}
	racks, err := records(x, reservePrefix, func(r *metapb.RackReservation) bool { return r.Group == name })
	if err != nil {
		return err
	}
	systems, err := records(x, "f/", func(f *metapb.FileSystem) bool { return f.Group == name && named(f.State) })
	if err != nil {
		return err
	}
	var in []string
	for _, p := range []struct {
		what  string
		names []string
	}{
		{"nodes ", collect(nodes, func(n *metapb.Node) string { return n.Name })},
		{"reserved racks ", collect(racks, func(r *metapb.RackReservation) string { return r.Rack })},
		{"file systems ", collect(systems, func(f *metapb.FileSystem) string { return f.Workspace + "/" + f.Name })},
	} {
		if len(p.names) > 0 {
			in = append(in, p.what+strings.Join(few(p.names), ", "))
		}
	}
	if len(in) > 0 {
		return vfs.Errorf(vfs.KindBusy, op, "group %s still has %s", name, strings.Join(in, "; "))
	}
	return nil
}

// endGroup takes a group that is retiring as far as it can be now: pools that no file system has are retiring or, without placement groups,
// gone, and if nothing is left the group is gone.
func (x *call) endGroup(name string) error {
	if name == "" || x.level < levelService {
		return nil
	}
	var g metapb.NodeGroup
	if had, err := x.getRecord(appendGroup(name), &g); err != nil || !had || !g.Retiring {
		return err
	}
	pools, err := records(x, "p/", func(p *metapb.Pool) bool { return p.Group == name })
	if err != nil {
		return err
	}
	systems, err := records(x, "f/", func(f *metapb.FileSystem) bool { return f.Group == name })
	if err != nil {
		return err
	}
	for _, p := range pools {
		key := appendID32(nil, "p/", p.Id)
		switch {
		case slices.ContainsFunc(systems, func(f *metapb.FileSystem) bool { return f.Pool == p.Id }):
			continue
		case len(p.Pgs) == 0:
			_, err = x.delMapRecord(key)
		case !p.Retiring:
			p.Retiring = true
			err = x.setMapRecord(key, p)
		}
		if err != nil {
			return err
		}
	}
	if in, err := x.inGroup(name); err != nil || in != "" {
		return err
	}
	_, err = x.delMapRecord(appendGroup(name))
	return err
}
