package api

import (
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/accounts"
)

// auditLog is one, and what it has.
func auditLog(t *testing.T) (*accounts.Audit, func() []accounts.Event) {
	path := filepath.Join(t.TempDir(), accounts.AuditName)
	a, err := accounts.OpenAudit(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a, func() (out []accounts.Event) {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(raw)) {
			var e accounts.Event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			out = append(out, e)
		}
		return out
	}
}

// Who has no token cannot fill the audit log, neither by what is refused nor by what needs none. What others do is in it.
func TestAuditIsNotFilled(t *testing.T) {
	audit, events := auditLog(t)
	now := time.Unix(1000, 0)
	g := newTestGateway(t, Options{Audit: audit, Now: func() time.Time { return now }})
	public := g.Public(nil)
	const calls = 300
	knock := func() {
		for _, r := range [][2]string{{"GET", "/filesystems"}, {"DELETE", "/session"}} {
			public.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(r[0], prefix+r[1], nil))
		}
	}
	for range calls {
		knock()
	}
	if w := g.call("POST", prefix+"/files/w/f/directory?path=/made", nil); w.Code != 200 {
		t.Fatal(w.Code, w.Body)
	}
	list := events()
	if n := len(list); n > calls || list[n-1].Who != "operator" || list[n-1].To != `/files/w/f/directory path="/made"` {
		t.Errorf("%d lines, the last is %+v", n, list[n-1])
	}
	strangers := len(list) - 1
	now = now.Add(time.Minute)
	knock()
	if n := events()[len(list)].Suppressed; n != 2*calls-strangers {
		t.Errorf("%d calls of strangers have no line, told is of %d", 2*calls-strangers, n)
	}
}
