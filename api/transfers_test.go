package api

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/vfs"
)

// A token has a part of what a gateway sends and receives at once; what has ended makes room, and nothing is left of it.
func TestTransfersAreBounded(t *testing.T) {
	var x transfers
	var ends []func()
	refused := func(who string) bool {
		t.Helper()
		end, err := x.begin(&accounts.Principal{Token: who, Name: who})
		if err != nil {
			if p := problem(err); p.Status != http.StatusTooManyRequests || p.Kind != vfs.KindLocked.String() || p.header.Get("Retry-After") == "" {
				t.Errorf("%+v", p)
			}
			return true
		}
		ends = append(ends, end)
		return false
	}
	for i := range transfersOfToken {
		if refused("greedy") {
			t.Fatalf("the %dth of a token is refused", i)
		}
	}
	if !refused("greedy") || refused("other") {
		t.Error("one token has more than its part, or another one none")
	}
	for i := len(ends); i < transfersAtOnce; i++ {
		if refused(fmt.Sprint(i)) {
			t.Fatalf("the %dth of all is refused", i)
		}
	}
	if !refused("one more") {
		t.Error("there is no bound for all")
	}
	ends[0]()
	ends = ends[1:]
	if refused("greedy") || !refused("one more") {
		t.Error("the end of one makes room for one")
	}
	for _, end := range ends {
		end()
	}
	if x.all != 0 || len(x.by) != 0 {
		t.Errorf("left are %d, %v", x.all, x.by)
	}
}

// Whatever moves content is refused while there is no room, with words that say so, and clients try again; what only looks is answered.
func TestNoRoomForTransfers(t *testing.T) {
	g := newTestGateway(t, Options{})
	tree := g.dial().Tree("w", "f")
	put := func() error {
		_, err := tree.Upload(t.Context(), "/file", bytes.NewReader([]byte("x")), Put{Length: 1})
		return err
	}
	get := func() error {
		f, err := tree.Download(t.Context(), "/file", 0, "")
		if err != nil {
			return err
		}
		return f.Close()
	}
	if err := errors.Join(put(), get()); err != nil {
		t.Fatal(err)
	}
	if g.transfers.all != 0 {
		t.Errorf("%d are left of those that have ended", g.transfers.all)
	}
	up := g.begun("/other", 1)
	g.transfers.all = transfersAtOnce
	for _, x := range [][2]string{
		{"GET", prefix + "/files/w/f/content?path=/file"}, {"PUT", prefix + "/files/w/f/content?path=/file"}, {"GET", prefix + "/files/w/f/archive?path=/"},
		{"POST", prefix + "/uploads/w/f?path=/new"}, {"PATCH", up},
	} {
		w := g.call(x[0], x[1], nil, "Upload-Offset", "0", "Upload-Length", "1")
		if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s %s: %d %v", x[0], x[1], w.Code, w.Header())
		}
	}
	for what, err := range map[string]error{"up": put(), "down": get()} {
		if vfs.KindOf(err) != vfs.KindLocked {
			t.Errorf("%s: the client does not try again after %v", what, err)
		}
	}
	if _, err := tree.Stat(t.Context(), "/file"); err != nil {
		t.Error(err)
	}
	if _, err := tree.ResumeUpload(t.Context(), up); err != nil {
		t.Error(err)
	}
}
