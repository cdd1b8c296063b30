package fsm

import (
	"google.golang.org/protobuf/proto"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Bounds of uploads.
const (
	maxUploads      = 10_000
	maxUploadRecord = 16 << 10
	uploadIDLen     = 16
	answerUploads   = 1000
)

const uploadPrefix = "j/u/"

func appendUpload(id []byte) []byte { return append([]byte(uploadPrefix), id...) }

func (x *call) putUpload(c *metapb.PutUpload) error {
	const op = "upload.put"
	u := c.Upload.CloneVT()
	if u == nil || len(u.Id) != uploadIDLen || u.Fs == 0 || u.Offset > u.Length || u.Length > vfs.MaxSize {
		return vfs.Errorf(vfs.KindInvalid, op, "an upload has an id of %d bytes, a file system, and not more than its length", uploadIDLen)
	}
	if n := u.SizeVT(); n > maxUploadRecord {
		return vfs.Errorf(vfs.KindTooMany, op, "a record of %d bytes, at most %d", n, maxUploadRecord)
	}
	for _, t := range []*metapb.Time{u.Created, u.Expires} {
		if err := checkTime(t); err != nil {
			return err
		}
	}
	var old metapb.Upload
	had, err := x.getRecord(appendUpload(u.Id), &old)
	if err != nil {
		return err
	}
	expect := u.Version
	u.Version = old.Version
	switch {
	case had && old.Version == expect+1 && proto.Equal(&old, u):
		return nil // a repeated command
	case !had && expect != 0:
		return vfs.Errorf(vfs.KindNotFound, op, "it was ended, or has expired")
	case old.Version != expect:
		return vfs.Errorf(vfs.KindChanged, op, "it is at version %d, not %d", old.Version, expect)
	case had && (old.Fs != u.Fs || old.Length != u.Length || string(old.Path) != string(u.Path) || old.Token != u.Token):
		return vfs.Errorf(vfs.KindInvalid, op, "file system, path, length and owner of an upload do not change")
	}
	if !had {
		n := 0
		if err := x.scan([]byte(uploadPrefix), prefixEnd([]byte(uploadPrefix)), func(_, _ []byte) bool { n++; return true }); err != nil {
			return err
		}
		if n >= maxUploads {
			return vfs.Errorf(vfs.KindTooMany, op, "%d uploads are under way already: end some, or wait until some have expired", n)
		}
	}
	u.Version++
	return x.setRecord(appendUpload(u.Id), u)
}

func (x *call) removeUpload(c *metapb.RemoveUpload) error {
	_, had, err := x.get(appendUpload(c.Id))
	if err == nil && had {
		x.del(appendUpload(c.Id))
	}
	return err
}

func (r *reader) uploads(q *metapb.UploadsQ) (*metapb.QueryResult, error) {
	res := &metapb.UploadsR{}
	if len(q.Id) != 0 {
		u := new(metapb.Upload)
		if ok, err := r.record(appendUpload(q.Id), u); err != nil {
			return nil, err
		} else if !ok {
			return nil, vfs.Errorf(vfs.KindNotFound, "upload", "it is not known: it was ended, or has expired")
		}
		res.Uploads = append(res.Uploads, u)
	} else {
		limit := answerUploads
		if q.Limit > 0 {
			limit = min(limit, int(q.Limit))
		}
		lo := []byte(uploadPrefix)
		if len(q.After) > 0 {
			lo = append(appendUpload(q.After), 0)
		}
		size, more := 0, false
		var bad error
		err := r.view.Scan(lo, prefixEnd([]byte(uploadPrefix)), func(_, v []byte) bool {
			if more = len(res.Uploads) > 0 && (len(res.Uploads) == limit || size+len(v) > answerBytes); more {
				return false
			}
			u := new(metapb.Upload)
			if bad = u.UnmarshalVT(v); bad != nil {
				return false
			}
			size += len(v)
			res.Uploads = append(res.Uploads, u)
			return true
		})
		if err != nil {
			return nil, err
		}
		if bad != nil {
			return nil, corrupt("upload: %w", bad)
		}
		if more {
			res.Next = res.Uploads[len(res.Uploads)-1].Id
		}
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_Uploads{Uploads: res}}, nil
}
