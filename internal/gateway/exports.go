package gateway

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// exportsOf are the exports of a file system: the whole, and those of directories that its record has. gateway are the rules of this
// gateway, which hold where the record says nothing.
func exportsOf(rec *metapb.FileSystem, fs vfs.FS, gateway []export.Rule) []export.Export {
	rules := squashed(networks(gateway, gateway, rec.Allow), rec)
	whole := export.Export{
		ID: rec.Id, FSID: rec.Id, Path: filesystem.Path(rec), FS: fs, Groups: rec.Groups, Rules: readOnly(rules, rec.ReadOnly),
	}
	out := []export.Export{whole}
	for _, e := range rec.Exports {
		one := whole
		one.ID, one.Path, one.Root, one.Project = secureID(rec.Id, e.Project), whole.Path+e.Path, vfs.Ino(e.Dir), e.Project
		one.Rules = readOnly(squashed(networks(rules, gateway, e.Allow), rec), rec.ReadOnly || e.ReadOnly)
		out = append(out, one)
	}
	return out
}

// withinOf are the networks of workspaces that have some.
func withinOf(list []*metapb.Workspace) map[string][]netip.Prefix {
	out := map[string][]netip.Prefix{}
	for _, w := range list {
		for _, n := range w.Networks {
			if p, err := netip.ParsePrefix(n); err == nil { // the state machine has looked at it
				out[w.Name] = append(out[w.Name], p)
			}
		}
	}
	return out
}

// networks are rules for the networks that are allowed, each like the gateway's first one; none: otherwise.
func networks(otherwise, gateway []export.Rule, allow []string) []export.Rule {
	if len(allow) == 0 {
		return slices.Clone(otherwise)
	}
	like := export.Rule{Access: export.ReadWrite, AnonUID: export.AnonID, AnonGID: export.AnonID}
	if len(gateway) > 0 {
		like = gateway[0]
	}
	var rules []export.Rule
	for _, n := range allow {
		if p, err := netip.ParsePrefix(n); err == nil { // the state machine has looked at it
			like.Clients = p
			rules = append(rules, like)
		}
	}
	return rules
}

// squashed changes rules to squash as a record says, if it does.
func squashed(rules []export.Rule, rec *metapb.FileSystem) []export.Rule {
	for i := range rules {
		r := &rules[i]
		switch rec.Squash {
		case metapb.Squash_SQUASH_NONE:
			r.Squash = export.SquashNone
		case metapb.Squash_SQUASH_ROOT:
			r.Squash = export.SquashRoot
		case metapb.Squash_SQUASH_ALL:
			r.Squash = export.SquashAll
		}
		if rec.AnonUid != 0 {
			r.AnonUID = rec.AnonUid
		}
		if rec.AnonGid != 0 {
			r.AnonGID = rec.AnonGid
		}
	}
	return rules
}

func readOnly(rules []export.Rule, only bool) []export.Rule {
	rules = slices.Clone(rules)
	for i := range rules {
		if only {
			rules[i].Access = export.ReadOnly
		}
	}
	return rules
}

// secureID is the id of a secure export. It is made of the file system and the project, so it is the same at every gateway
// and start; ids of file systems are below the bit that it has.
func secureID(fs, project uint32) uint32 {
	const ofProject = 1 << 31
	h := fnv.New32a()
	var b [8]byte
	binary.BigEndian.PutUint32(b[:], fs)
	binary.BigEndian.PutUint32(b[4:], project)
	h.Write(b[:])
	return h.Sum32() | ofProject
}
