package raftmeta

import (
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// A call says of which requests its items are part, or nothing; a payload of another length is refused.
func TestRequestsOfItems(t *testing.T) {
	if requestsOf([]*item{{}, {}}) != nil {
		t.Error("items of nobody's request have a payload")
	}
	payload := requestsOf([]*item{{}, {request: 1<<64 - 2}, {request: 7}})
	if len(payload) != 1 {
		t.Fatal(payload)
	}
	r, err := readRequests(payload[0], 3)
	if err != nil || r.of(0) != 0 || r.of(1) != 1<<64-2 || r.of(2) != 7 {
		t.Errorf("%x, %v", r, err)
	}
	for _, n := range []int{0, 2, 4} {
		if _, err := readRequests(payload[0], n); vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("a payload of three items is taken for that of %d: %v", n, err)
		}
	}
	if r, err := readRequests(nil, 5); err != nil || r.of(4) != 0 {
		t.Errorf("%x, %v", r, err)
	}
}

// What is logged of a command or a query says what it is.
func TestOpName(t *testing.T) {
	cmd := &metapb.Command{Op: &metapb.Command_CommitData{CommitData: &metapb.CommitData{}}}
	enc, err := cmd.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	if got := commandName(enc); got != "commit_data" {
		t.Errorf("a command is %q", got)
	}
	if got := commandName([]byte{0xff}); got == "" {
		t.Error("what is no command has no name")
	}
	if got := opName(&metapb.Query{Q: &metapb.Query_Lookup{Lookup: &metapb.LookupQ{}}}); got != "lookup" {
		t.Errorf("a query is %q", got)
	}
	if got := opName(&metapb.Query{}); got != "" {
		t.Errorf("nothing is %q", got)
	}
}
