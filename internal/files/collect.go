package files

import (
	"context"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// QuotaMeta is a metadata client that lists projects, too.
type QuotaMeta interface {
	Meta
	Quotas(ctx context.Context, shard uint16, fs uint32) ([]*metapb.Quota, error)
}

// Expire ends the uploads that have expired, also of file systems that are gone or not served here. Collect removes their files, for they have no record any more.
func (u *Uploads) Expire(ctx context.Context) (ended int, err error) {
	records, err := u.all(ctx)
	if err != nil {
		return 0, err
	}
	for _, r := range records {
		if u.Now().Before(timeOf(r.Expires)) {
			continue
		}
		unlock, err := u.lock(r.Id)
		if err != nil {
			continue // a piece is coming in
		}
		err = u.remove(ctx, r)
		unlock()
		if err != nil {
			return ended, err
		}
		ended++
	}
	return ended, nil
}

// Collect removes what uploads that nobody will end have left in the hidden directories of a file system. See the package comment.
func (u *Uploads) Collect(ctx context.Context, fs vfs.FS, rec *metapb.FileSystem, meta QuotaMeta) (removed int, err error) {
	t := &Tree{FS: fs, Cred: vfs.Root}
	projects := []uint32{0}
	quotas, err := meta.Quotas(ctx, uint16(rec.Shard), rec.Id)
	if err != nil {
		return 0, err
	}
	for _, q := range quotas {
		if q.Project != 0 {
			projects = append(projects, q.Project)
		}
	}
	var left []leftOver
	for _, p := range projects {
		list, err := t.hidden(ctx, vfs.StagingIno(p))
		if err != nil {
			return 0, err
		}
		left = append(left, list...)
	}
	// Only now, so that of a file that was listed the record or the origin is known if it ever was.
	records, err := u.all(ctx)
	if err != nil {
		return 0, err
	}
	origins, err := meta.Query(ctx, uint16(rec.Shard), &metapb.Query{Q: &metapb.Query_Origins{Origins: &metapb.OriginsQ{}}})
	if err != nil {
		return 0, err
	}
	for _, l := range left {
		if l.garbage(records, origins.GetOrigins().GetOrigins()) {
			if _, err := fs.Remove(ctx, &vfs.Root, l.dir, l.name, vfs.RemoveFile); err == nil {
				removed++
			}
		}
	}
	return removed, nil
}

// leftOver is a name in a hidden directory.
type leftOver struct {
	dir  vfs.Ino
	name string
}

func (l leftOver) garbage(records []*metapb.Upload, origins []uint64) bool {
	kind, rest, _ := strings.Cut(l.name, "-")
	switch kind {
	case "p":
		origin, _, _ := strings.Cut(rest, "-")
		o, err := strconv.ParseUint(origin, 16, 64)
		return err == nil && !slices.Contains(origins, o)
	case "u":
		id, err := hex.DecodeString(rest)
		return err == nil && !slices.ContainsFunc(records, func(r *metapb.Upload) bool { return string(r.Id) == string(id) })
	}
	return false // of a later release, perhaps
}

func (t *Tree) hidden(ctx context.Context, dir vfs.Ino) (out []leftOver, err error) {
	for cookie := uint64(0); ; {
		page, err := t.FS.ReadDir(ctx, &t.Cred, dir, cookie, listEntries, false)
		if vfs.KindOf(err) == vfs.KindStale {
			if _, err := t.FS.GetAttr(ctx, vfs.RootIno); err != nil {
				return nil, err
			}
			return out, nil // there is none
		}
		if err != nil {
			return nil, err
		}
		for _, e := range page.Entries {
			cookie = e.Cookie
			out = append(out, leftOver{dir, e.Name})
		}
		if page.EOF || len(page.Entries) == 0 {
			return out, nil
		}
	}
}

// all are the records of all uploads.
func (u *Uploads) all(ctx context.Context) (out []*metapb.Upload, err error) {
	for after := []byte(nil); ; {
		r, err := u.Meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_Uploads{Uploads: &metapb.UploadsQ{After: after}}})
		if err != nil {
			return nil, err
		}
		page := r.GetUploads()
		out = append(out, page.GetUploads()...)
		if after = page.GetNext(); len(after) == 0 {
			return out, nil
		}
	}
}
