package backup

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// handleKeyBytes is the length of a key of file handles.
const handleKeyBytes = 16

// Target is the metadata directory of a node that is to be one of the first voters.
type Target struct{ Dir, Node string }

// RestoreOptions say where a backup is restored to.
type RestoreOptions struct {
	Targets []Target // of which Dir does not exist or is empty
	Cluster []byte   // the backup has to be of this one
	Log     raftmeta.Backend
	Files   vfile.FS
	Now     time.Time
	Logger  *slog.Logger
}

// Restored is what a restore made.
type Restored struct {
	Head
	Now uint64 // the new incarnation
}

// restoring ends the name that a metadata directory has until all of it is there.
const restoring = ".restoring"

// Restore verifies a backup, then makes the targets' directories from it. Each appears whole or not at all.
func Restore(o RestoreOptions, file io.ReadSeeker) (Restored, error) {
	r, err := restore(o, file)
	return r, vfs.Wrap("restore", err)
}

func restore(o RestoreOptions, file io.ReadSeeker) (out Restored, err error) {
	if o.Files == nil {
		o.Files = vfile.OS{}
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return out, err
	}
	if out.Head, _, err = Verify(file); err != nil {
		return out, err
	}
	if out.Cluster != hex.EncodeToString(o.Cluster) {
		return out, vfs.Errorf(vfs.KindIncompatible, "", "the backup is of cluster %s, this node of %x", out.Cluster, o.Cluster)
	}
	for _, t := range o.Targets {
		if names, err := o.Files.List(t.Dir); err == nil && len(names) > 0 {
			return out, vfs.Errorf(vfs.KindExists, "", "%s is not empty: there is metadata already; move it away if the backup is to take its place", t.Dir)
		} else if err != nil && !vfile.IsNotExist(err) {
			return out, err
		}
		if err := o.Files.RemoveAll(t.Dir + restoring); err != nil {
			return out, err
		}
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return out, err
	}
	r, err := NewReader(file)
	if err != nil {
		return out, err
	}
	if out.Now, err = nextIncarnation(out.Incarnation, o.Now); err != nil {
		return out, err
	}
	renewal := raftmeta.Renewal{
		Incarnation: out.Now, HandleSecret: make([]byte, handleKeyBytes), Namespaces: map[uint16][]uint32{},
		Time: &metapb.Time{Sec: o.Now.Unix(), Nsec: uint32(o.Now.Nanosecond())},
	}
	rand.Read(renewal.HandleSecret)
	for {
		s, state, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return out, err
		}
		if err := o.shard(s, state, &renewal, out.Incarnation); err != nil {
			return out, err
		}
	}
	for _, t := range o.Targets {
		if _, err := o.Files.Stat(t.Dir); err == nil {
			if err := o.Files.Remove(t.Dir); err != nil { // empty
				return out, err
			}
		}
		if err := o.Files.Rename(t.Dir+restoring, t.Dir); err != nil {
			return out, err
		}
		if err := o.Files.SyncDir(filepath.Dir(t.Dir)); err != nil {
			return out, err
		}
	}
	return out, nil
}

func (o *RestoreOptions) shard(s Shard, state io.Reader, renewal *raftmeta.Renewal, incarnation uint64) error {
	ro := raftmeta.RestoreOptions{Cluster: o.Cluster, Shard: s.Shard, Renewal: *renewal, Files: o.Files, Logger: o.Logger}
	for _, t := range o.Targets {
		dir := t.Dir + restoring
		rs, err := raftmeta.Format(raftmeta.FormatOptions{Dir: dir, Cluster: o.Cluster, Node: t.Node, Shards: []uint16{s.Shard}, Log: o.Log, Files: o.Files})
		if err != nil {
			return err
		}
		ro.Voters = append(ro.Voters, raftmeta.FirstVoter{Dir: dir, ID: rs[0].ID})
	}
	id, namespaces, err := raftmeta.RestoreShard(ro, state)
	if err != nil {
		return err
	}
	if id.Incarnation != incarnation {
		return corrupt("shard %d is of incarnation %d, the backup of %d", s.Shard, id.Incarnation, incarnation)
	}
	renewal.Namespaces[s.Shard] = namespaces
	return nil
}

// Incarnations are seconds since 1970 and random bits, so that no two restores have the same one, whatever the clock says.
const incarnationRandomBits = 16

func nextIncarnation(before uint64, now time.Time) (uint64, error) {
	var random [2]byte
	if _, err := rand.Read(random[:]); err != nil {
		return 0, err
	}
	high := max(uint64(max(now.Unix(), 0)), before>>incarnationRandomBits+1)
	return high<<incarnationRandomBits | uint64(binary.BigEndian.Uint16(random[:])), nil
}
