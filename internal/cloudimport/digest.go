package cloudimport

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"hash/crc32"
	"net/http"
	"strconv"
	"strings"

	"github.com/minio/crc64nvme"

	"github.com/rackfs/rackfs/vfs"
)

// check is one digest that the content of an object is to have.
type check struct {
	name string
	algo func() hash.Hash
	want []byte
	// part and parts are of a digest of the digests of parts, of one size but for the last; 0: it is of the whole.
	part  uint64
	parts int
	// etag says that it is the ETag: the sizes of parts are not known yet.
	etag bool
}

// checksums are the headers of S3's checksums, by the strength of what they are.
func checksums() []struct {
	header string
	algo   func() hash.Hash
} {
	type row = struct {
		header string
		algo   func() hash.Hash
	}
	return []row{
		{"X-Amz-Checksum-Sha256", sha256.New}, {"X-Amz-Checksum-Sha1", sha1.New},
		{"X-Amz-Checksum-Crc64nvme", func() hash.Hash { return crc64nvme.New() }},
		{"X-Amz-Checksum-Crc32c", func() hash.Hash { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) }},
		{"X-Amz-Checksum-Crc32", func() hash.Hash { return crc32.NewIEEE() }},
	}
}

// checksOf are the digests that an answer announces. Those of parts have no size of parts yet.
func checksOf(o *Object, h http.Header, etag bool) (out []check, err error) {
	for _, c := range checksums() {
		v := h.Get(c.header)
		if v == "" {
			continue
		}
		sum, parts, err := cutParts(v)
		if err != nil {
			return nil, vfs.Errorf(vfs.KindInvalid, "import", "%s: the endpoint sends %s %q, which is none", Shown(o.Key), strings.ToLower(c.header), clip(v))
		}
		want, err := base64.StdEncoding.DecodeString(sum)
		if err != nil || len(want) != c.algo().Size() {
			return nil, vfs.Errorf(vfs.KindInvalid, "import", "%s: the endpoint sends %s %q, which is none", Shown(o.Key), strings.ToLower(c.header), clip(v))
		}
		if parts == 0 && strings.EqualFold(h.Get("X-Amz-Checksum-Type"), "COMPOSITE") {
			continue // of how many parts it does not say
		}
		out = append(out, check{name: strings.ToLower(c.header), algo: c.algo, want: want, parts: parts})
		break
	}
	if c, ok := etagCheck(o.ETag, h); ok && etag {
		out = append(out, c)
	}
	return out, nil
}

// etagCheck is the MD5 that an ETag is, if it has the form of one and the object is not encrypted in a way that makes it another thing.
func etagCheck(etag string, h http.Header) (check, bool) {
	if h.Get("X-Amz-Server-Side-Encryption-Customer-Algorithm") != "" || strings.HasPrefix(h.Get("X-Amz-Server-Side-Encryption"), "aws:") {
		return check{}, false
	}
	sum, parts, err := cutParts(etag)
	if err != nil || len(sum) != 2*md5.Size {
		return check{}, false
	}
	want, err := hex.DecodeString(sum)
	return check{name: "ETag", algo: md5.New, want: want, parts: parts, etag: true}, err == nil
}

// maxParts is how many parts S3 allows.
const maxParts = 10000

// cutParts takes the number of parts off a digest; 0: it is of the whole.
func cutParts(s string) (sum string, parts int, err error) {
	sum, n, found := strings.Cut(s, "-")
	if !found {
		return s, 0, nil
	}
	parts, err = strconv.Atoi(n)
	if err == nil && (parts < 1 || parts > maxParts) {
		err = strconv.ErrRange
	}
	return sum, parts, err
}

// partSize is the size of the parts of an object of a number of parts, of which the first and the last have these sizes; 0: they are not of one size, or not known.
func partSize(size uint64, parts int, first, last uint64) uint64 {
	switch {
	case parts == 1:
		return max(size, 1)
	case first == 0 || last == 0 || last > first || size < last || first > (size-last)/uint64(parts-1) || first*uint64(parts-1)+last != size:
		return 0
	}
	return first
}

// digest computes what checks ask for.
type digest struct {
	checks []check
	sums   []*summing
}

type summing struct {
	h, outer hash.Hash // of the part, or the whole; of the digests of parts
	part     uint64
	left     uint64 // of the part
	began    bool   // the part has a byte, or is the only one
	parts    int
}

func newDigest(checks []check) *digest {
	d := &digest{checks: checks}
	for _, c := range checks {
		s := &summing{h: c.algo()}
		if c.parts > 0 {
			s.outer, s.part, s.left = c.algo(), c.part, c.part
		}
		d.sums = append(d.sums, s)
	}
	return d
}

func (d *digest) write(b []byte) {
	for _, s := range d.sums {
		s.write(b)
	}
}

func (s *summing) write(b []byte) {
	if s.outer == nil {
		s.h.Write(b)
		return
	}
	for len(b) > 0 {
		n := min(uint64(len(b)), s.left)
		s.h.Write(b[:n])
		s.began = true
		b = b[n:]
		if s.left -= n; s.left == 0 {
			s.endPart()
		}
	}
}

func (s *summing) endPart() {
	s.outer.Write(s.h.Sum(nil))
	s.h.Reset()
	s.left, s.began = s.part, false
	s.parts++
}

func (s *summing) sum() []byte {
	if s.outer == nil {
		return s.h.Sum(nil)
	}
	if s.began || s.parts == 0 {
		s.endPart()
	}
	return s.outer.Sum(nil)
}

// verify refuses content that is not what was announced.
func (d *digest) verify(o *Object) error {
	for i, c := range d.checks {
		if got := d.sums[i].sum(); !bytes.Equal(got, c.want) {
			hint := ""
			if c.etag {
				hint = "; if the ETags of this endpoint are no MD5, import without comparing them"
			}
			return vfs.Errorf(vfs.KindCorrupt, "import", "%s was damaged on the way, or is another object than was listed: its %s is %x, announced was %x%s", Shown(o.Key), c.name, got, c.want, hint)
		}
	}
	return nil
}
