package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestProfiles(t *testing.T) {
	h := Profiles(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("next " + r.Method + " " + r.URL.Path))
	}))
	for _, c := range []struct{ method, path, says string }{
		{"GET", "/debug/pprof/goroutine?debug=1", "goroutine profile: total"},
		{"GET", "/debug/pprof/heap?debug=1", "heap profile:"},
		{"GET", "/debug/pprof/", "goroutine"},
		{"GET", "/api/v1/nodes", "next GET /api/v1/nodes"},
		{"POST", "/api/v1/nodes", "next POST /api/v1/nodes"},
		{"POST", "/debug/pprof/profile", "next POST"}, // nobody's
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s %s: %d %.200s, want %q", c.method, c.path, w.Code, w.Body, c.says)
		}
	}
}
