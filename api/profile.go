package api

import (
	"net/http"
	"net/http/pprof"
)

// Profiles adds Go's profiles below /debug/pprof/ to a handler of the admin socket; everything else is next's. They show memory of the process, so they are
// for administrators, and never for the network.
func Profiles(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", next)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}
