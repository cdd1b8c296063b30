package api

import (
	"net/http"
	"net/http/pprof"
	"strconv"
	"strings"
	"time"

	runtimepprof "runtime/pprof"

	"github.com/rackfs/rackfs/vfs"
)

// maxProfileTime is the longest that a profile over the network may take.
const maxProfileTime = 30 * time.Second

// Profiles adds Go's profiles below /debug/pprof/ to a handler of the admin socket, where `go tool pprof` looks for them; everything else is next's.
func Profiles(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", next)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// profile answers with one of Go's profiles of this process, as net/http/pprof does. They say which code runs and what its memory is for, not what is in it.
func (a *API) profile(w http.ResponseWriter, r *http.Request) error {
	const op = "profile"
	if s := r.URL.Query().Get("seconds"); s != "" {
		if n, err := strconv.Atoi(s); err != nil || n < 1 || n > int(maxProfileTime/time.Second) {
			return vfs.Errorf(vfs.KindInvalid, op, "seconds=%q: from 1 to %d", s, maxProfileTime/time.Second)
		}
	}
	name := r.PathValue("profile")
	serve := map[string]http.HandlerFunc{"profile": pprof.Profile, "trace": pprof.Trace}[name]
	switch {
	case serve != nil:
	case runtimepprof.Lookup(name) != nil:
		serve = pprof.Handler(name).ServeHTTP
	default:
		names := []string{"profile", "trace"}
		for _, p := range runtimepprof.Profiles() {
			names = append(names, p.Name())
		}
		return vfs.Errorf(vfs.KindNotFound, op, "there is no profile %q: there are %s", name, strings.Join(names, ", "))
	}
	serve(w, r)
	return nil
}
