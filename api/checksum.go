package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"github.com/rackfs/rackfs/vfs"
)

const (
	// ChecksumMax bounds the bytes that one request has read: larger files are compared range by range.
	ChecksumMax = 1 << 30
	// checksumsAtOnce bounds how many a gateway computes at once; others wait.
	checksumsAtOnce = 4
)

// Checksum is the SHA-256 of a file's content, or of a range of it.
type Checksum struct {
	SHA256 string `json:"sha256" doc:"In hex"`
	Offset uint64 `json:"offset"`
	Length uint64 `json:"length" doc:"Of the range; less than was asked for if the file ends before"`
	Size   uint64 `json:"size" doc:"Of the whole file"`
	ETag   string `json:"etag"`
}

func (a *API) checksum(w http.ResponseWriter, r *http.Request) error {
	const op = "checksum"
	ctx, q := r.Context(), r.URL.Query()
	var off, length uint64
	var err error
	for name, to := range map[string]*uint64{"offset": &off, "length": &length} {
		if s := q.Get(name); s != "" {
			if *to, err = strconv.ParseUint(s, 10, 64); err != nil {
				return vfs.Errorf(vfs.KindInvalid, op, "%s=%.40q: write a number of bytes", name, s)
			}
		}
	}
	f, tag, err := a.open(r, op)
	if err != nil {
		return err
	}
	defer f.Close()
	attr, shown := &f.Node.Attr, f.Node.Path.Shown()
	if off > attr.Size {
		return vfs.Errorf(vfs.KindInvalid, op, "offset %d of %s, which has %d bytes", off, shown, attr.Size)
	}
	left := attr.Size - off
	if length == 0 {
		length = left
	}
	if length = min(length, left); length > ChecksumMax {
		return vfs.Errorf(vfs.KindTooBig, op, "%d bytes of %s, at most %d at once: ask for ranges", length, shown, uint64(ChecksumMax))
	}
	select {
	case a.sums <- struct{}{}:
		defer func() { <-a.sums }()
	case <-ctx.Done():
		return vfs.Wrap(op, context.Cause(ctx))
	}
	h := sha256.New()
	err = f.Copy(ctx, h, off, length)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("ETag", tag)
	return json.NewEncoder(w).Encode(Checksum{SHA256: hex.EncodeToString(h.Sum(nil)), Offset: off, Length: length, Size: attr.Size, ETag: tag})
}

// Checksum has the SHA-256 of a range computed where the file is; n is at most ChecksumMax. With etag, only if the file is still what had that: KindChanged.
func (t *Tree) Checksum(ctx context.Context, path string, off, n uint64, etag string) (out Checksum, err error) {
	q := url.Values{"offset": {strconv.FormatUint(off, 10)}, "length": {strconv.FormatUint(n, 10)}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.c.base+prefix+t.address("/checksum", path, q), nil)
	if err != nil {
		return out, err
	}
	if etag != "" {
		req.Header.Set("If-Match", etag)
	}
	resp, err := t.c.do(req)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	return out, answered(resp, &out)
}
