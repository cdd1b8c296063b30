package attr

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
)

func TestBitmap(t *testing.T) {
	b := Of(nfsv4.FATTR4_TYPE, nfsv4.FATTR4_MODE, nfsv4.FATTR4_MOUNTED_ON_FILEID)
	if !slices.Equal(b, Bitmap{1 << 1, 1<<1 | 1<<23}) {
		t.Errorf("%x", b)
	}
	d := xdr.NewDecoder(b.Append(nil))
	if got := DecodeBitmap(&d); !slices.Equal(got, b) || d.Err() != nil || d.Len() != 0 {
		t.Errorf("decoded %x, %v", got, d.Err())
	}
	if b.Has(2) || !b.Has(nfsv4.FATTR4_MODE) || b.Has(200) {
		t.Error("Has")
	}
}

// What generated code encodes is decoded, and the other way round.
func TestAgainstGeneratedCode(t *testing.T) {
	mode, size, owner := uint32(0o640), uint64(1<<40), "1000"
	mtime, atime := time.Unix(5, 6), time.Time{}
	s := Set{Size: &size, Mode: &mode, Owner: &owner, Mtime: &mtime, Atime: &atime}
	var f nfsv4.Fattr4
	enc := s.Append(nil)
	if n, err := f.ReadFrom(bytes.NewReader(enc)); err != nil || int(n) != len(enc) {
		t.Fatalf("read %d of %d: %v", n, len(enc), err)
	}
	if want := Of(nfsv4.FATTR4_SIZE, nfsv4.FATTR4_MODE, nfsv4.FATTR4_OWNER, nfsv4.FATTR4_TIME_ACCESS_SET, nfsv4.FATTR4_TIME_MODIFY_SET); !slices.Equal(f.Attrmask, want) {
		t.Errorf("mask %x, want %x", f.Attrmask, want)
	}
	r := bytes.NewReader(f.AttrVals)
	if v, _, err := nfsv4.ReadUint64T(r); v != size || err != nil {
		t.Errorf("size %d, %v", v, err)
	}
	if v, _, err := nfsv4.ReadUint32T(r); v != mode || err != nil {
		t.Errorf("mode %o, %v", v, err)
	}

	var w xdr.Writer
	vals := xdr.AppendUint64(nil, 77) // change
	vals = xdr.AppendString(vals, "1000")
	if _, err := (&nfsv4.Fattr4{Attrmask: Of(nfsv4.FATTR4_CHANGE, nfsv4.FATTR4_OWNER), AttrVals: vals}).WriteTo(&w); err != nil {
		t.Fatal(err)
	}
	d := xdr.NewDecoder(w.B)
	if a := Decode(&d); a.Change != 77 || a.Owner != "1000" || d.Err() != nil || d.Len() != 0 {
		t.Errorf("%+v, %v", a, d.Err())
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, p := range map[string][]byte{
		"an attribute not asked for": xdr.AppendOpaque(Of(nfsv4.FATTR4_ACL).Append(nil), make([]byte, 4)),
		"a wrong length":             xdr.AppendOpaque(Of(nfsv4.FATTR4_SIZE).Append(nil), make([]byte, 12)),
		"a huge bitmap":              xdr.AppendUint32(nil, 1<<30),
	} {
		d := xdr.NewDecoder(p)
		Decode(&d)
		if d.Err() == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
