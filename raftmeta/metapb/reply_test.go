package metapb

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// sameReply decodes b by both ways, which must agree.
func sameReply(t *testing.T, b []byte) {
	t.Helper()
	var want, got QueryReply
	werr, gerr := want.UnmarshalVT(b), got.UnmarshalReply(b)
	if (werr == nil) != (gerr == nil) {
		t.Fatalf("UnmarshalVT: %v; UnmarshalReply: %v\n%x", werr, gerr, b)
	}
	if werr != nil {
		return
	}
	for _, r := range want.Results {
		for _, e := range r.GetReadDir().GetEntries() {
			fillTimes(e.Attr)
		}
		fillTimes(r.GetReadDir().GetDir())
		fillTimes(r.GetAttr().GetAttr())
	}
	for _, r := range got.Results { // what UnmarshalVT decoded
		for _, e := range r.GetReadDir().GetEntries() {
			fillTimes(e.Attr)
		}
		fillTimes(r.GetReadDir().GetDir())
		fillTimes(r.GetAttr().GetAttr())
	}
	if !proto.Equal(&want, &got) {
		t.Fatalf("UnmarshalVT:    %v\nUnmarshalReply: %v\n%x", &want, &got, b)
	}
}

func fillTimes(a *Attr) {
	if a == nil {
		return
	}
	for _, p := range []**Time{&a.Atime, &a.Mtime, &a.Ctime, &a.Btime} {
		if *p == nil {
			*p = &Time{}
		}
	}
}

// someReply is an answer with listings of all forms, and with others between them.
func someReply(r *rand.Rand) *QueryReply {
	attr := func() *Attr {
		if r.IntN(5) == 0 {
			return nil
		}
		a := &Attr{Ino: r.Uint64(), Type: 1, Mode: r.Uint32(), Size: uint64(r.IntN(1000)), Change: r.Uint64()}
		if r.IntN(5) != 0 {
			a.Atime, a.Mtime, a.Ctime, a.Btime = &Time{Sec: -r.Int64N(1e9)}, &Time{Nsec: 5}, &Time{}, &Time{Sec: r.Int64N(1e9), Nsec: 999}
		}
		return a
	}
	lease := func() *Lease {
		if r.IntN(2) == 0 {
			return nil
		}
		return &Lease{Origin: r.Uint64(), Epoch: uint64(r.IntN(3)), ChangeLimit: r.Uint64()}
	}
	reply := new(QueryReply)
	for range 1 + r.IntN(4) {
		switch r.IntN(5) {
		case 0:
			reply.Results = append(reply.Results, &QueryResult{Kind: r.Uint32N(9), Text: "no"})
		case 1, 2:
			reply.Results = append(reply.Results, &QueryResult{R: &QueryResult_Attr{Attr: &AttrR{Attr: attr(), Lease: lease()}}})
		default:
			list := &ReadDirR{Eof: r.IntN(2) == 0, Dir: attr()}
			for i := range r.IntN(6) {
				list.Entries = append(list.Entries, &Dirent{Cookie: r.Uint64(), Name: fmt.Appendf(nil, "%0*d", r.IntN(40), i), Ino: uint64(i), Type: r.Uint32N(9), Attr: attr()})
			}
			reply.Results = append(reply.Results, &QueryResult{R: &QueryResult_ReadDir{ReadDir: list}})
		}
	}
	return reply
}

func TestUnmarshalReply(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		b, err := someReply(r).MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		sameReply(t, b)
		for range 200 { // damaged, cut, with fields of another release
			d := append([]byte(nil), b...)
			switch at := r.IntN(len(d) + 1); r.IntN(3) {
			case 0:
				d = d[:at]
			case 1:
				d = append(protowire.AppendVarint(protowire.AppendTag(d[:at:at], protowire.Number(1+r.IntN(40)), protowire.VarintType), 7), b[at:]...)
			default:
				if at < len(d) {
					d[at] ^= byte(1 << r.IntN(8))
				}
			}
			sameReply(t, d)
		}
	}
}

// TestListingStandsAlone: names do not grow into each other, and do not lie in what was decoded.
func TestListingStandsAlone(t *testing.T) {
	list := &ReadDirR{Entries: []*Dirent{{Name: []byte("one")}, {Name: []byte("two")}}}
	b, err := (&QueryReply{Results: []*QueryResult{{R: &QueryResult_ReadDir{ReadDir: list}}}}).MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	var m QueryReply
	if err := m.UnmarshalReply(b); err != nil {
		t.Fatal(err)
	}
	clear(b)
	got := m.Results[0].GetReadDir().Entries
	_ = append(got[0].Name, 'x')
	if string(got[0].Name) != "one" || string(got[1].Name) != "two" {
		t.Fatalf("%q, %q", got[0].Name, got[1].Name)
	}
}

func FuzzUnmarshalReply(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 10 {
		b, err := someReply(r).MarshalVT()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(sameReply)
}
