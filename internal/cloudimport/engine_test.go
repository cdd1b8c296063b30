package cloudimport

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/jobs"
	"github.com/rackfs/rackfs/vfs"
)

func TestImport(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	r := newTestRig(t)
	defer r.e.Close()
	big := strings.Repeat("0123456789abcdef", 200_000) // more than a piece
	for k, v := range map[string]string{"a": "1", "b/c": "22", "b/d/": "", "b/big": big, "empty": "", "a/b": "x", "..": "x", "b//e": "x", "z/../y": "x"} {
		r.e.put(k, v)
	}
	r.e.page = 2

	r.spec.DryRun = true
	rep, _, err := r.run()
	r.wants(rep, err, 4, 0, 1, 4, 0)
	if rep.Bytes != uint64(len(big))+3 || r.e.count("a") != 0 {
		t.Errorf("%+v", rep)
	}
	if _, err := r.tree.Walk(t.Context(), "/to", "test"); vfs.KindOf(err) != vfs.KindNotFound {
		t.Errorf("a dry run made the destination: %v", err)
	}
	r.spec.DryRun = false
	rep, rec, err := r.run()
	r.wants(rep, err, 4, 0, 1, 4, 0)
	want := []string{"/to/a 1", "/to/b/", "/to/b/big 3200000", "/to/b/c 2", "/to/b/d/", "/to/empty 0"}
	if got := r.listing("/to"); !slices.Equal(got, want) || r.content("/to/b/big") != big || r.content("/to/b/c") != "22" {
		t.Errorf("%q", got)
	}
	if rep.Verified != 4 || len(rep.Keys) != 4 || rec.ItemsDone != 5 || rec.ItemsTotal != 9 || rec.ItemsFailed != 4 || rec.Error == "" {
		t.Errorf("%+v %v", rep, rec)
	}
	if n, _, err := r.tree.Stat(t.Context(), "/to/a"); err != nil || !n.Attr.Mtime.Equal(modified) {
		t.Errorf("%+v %v", n, err)
	}

	// Again: nothing is read.
	reads := r.e.count("a")
	rep, _, err = r.run()
	r.wants(rep, err, 0, 4, 1, 4, 0)
	r.spec.Conflict = IfNewer
	rep, _, err = r.run()
	r.wants(rep, err, 0, 4, 1, 4, 0)
	if r.e.count("a") != reads {
		t.Errorf("read %d times", r.e.count("a"))
	}
	r.e.put("a", "other")
	r.spec.Conflict = Overwrite
	rep, _, err = r.run()
	r.wants(rep, err, 4, 0, 1, 4, 0)
	if r.content("/to/a") != "other" {
		t.Errorf("%q", r.content("/to/a"))
	}

	// What is in the way.
	for _, p := range []files.Path{"/to/a", "/to/empty"} {
		if err := r.tree.Remove(t.Context(), p, vfs.RemoveFile); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.tree.Mkdir(t.Context(), "/to/a", false, 0o755); err != nil {
		t.Fatal(err)
	}
	rep, _, err = r.run()
	r.wants(rep, err, 3, 0, 1, 5, 0)
}

// A gateway ends in the middle, without a word: what shard 0 has recorded as done is not read again.
func TestGoesOn(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	r := newTestRig(t)
	defer r.e.Close()
	const objects = 60
	for i := range objects {
		r.e.put(fmt.Sprintf("d%d/%03d", i%7, i), strings.Repeat("x", i))
	}
	r.spec.Conflict = Overwrite // so that what is there does not help
	j := r.job()
	for lives := 1; ; lives++ {
		ctx, kill := context.WithCancel(t.Context())
		defer kill()
		j.mu.Lock()
		j.hold = make(chan struct{}, 100)
		for range 2 { // then it ends
			j.hold <- struct{}{}
		}
		j.saves = 0
		j.mu.Unlock()
		done := make(chan error, 1)
		go func() { done <- r.engine.Run(ctx, j, r.target()) }()
		for over := false; !over; {
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				over = true
			case <-time.After(time.Millisecond):
				j.mu.Lock()
				stuck := j.saves >= 2
				j.mu.Unlock()
				if stuck {
					kill()
					<-done
					j.mu.Lock()
					j.now = j.saved.CloneVT() // what was not written down is lost
					j.mu.Unlock()
					over = true
				}
			}
		}
		rep := ReadReport(j.now.Report)
		if rep.Imported == objects {
			t.Logf("%d lives", lives)
			if lives < 3 {
				t.Error("it did not end in the middle")
			}
			total := 0
			for k := range r.e.objects {
				n := r.e.count(k)
				total += n
				if n == 0 {
					t.Errorf("%s was not read", k)
				}
			}
			// Each life may have left as many as there are workers.
			if most := objects + (lives-1)*4; total > most {
				t.Errorf("%d reads of %d objects in %d lives, at most %d", total, objects, lives, most)
			}
			if len(r.listing("/to")) != objects+7 {
				t.Errorf("%q", r.listing("/to"))
			}
			r.nothingLeft()
			return
		}
		if lives > 10*objects {
			t.Fatalf("it gets nowhere: %+v", rep)
		}
	}
}

// An object that takes long does not hold up what is listed behind it, and after a restart it alone is read again.
func TestLateObject(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	r := newTestRig(t)
	defer r.e.Close()
	const objects = 3 * windowMax
	r.e.put("0", "takes long")
	for i := range objects {
		r.e.put(fmt.Sprintf("1/%04d", i), "x")
	}
	r.spec.Conflict = Overwrite // so that what is there does not help
	var release atomic.Bool
	r.e.wrong = func(_ http.ResponseWriter, req *http.Request, key string) bool {
		if key != "0" || release.Load() {
			return false
		}
		<-req.Context().Done()
		return true
	}
	j := r.job()
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	done := make(chan error, 1)
	go func() { done <- r.engine.Run(ctx, j, r.target()) }()
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(time.Millisecond) {
		j.mu.Lock()
		rep := ReadReport(j.saved.Report)
		j.mu.Unlock()
		if rep.Imported == objects {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d of the %d objects behind the one that takes long were imported", rep.Imported, objects)
		}
	}
	kill()
	<-done
	j.mu.Lock()
	j.now = j.saved.CloneVT()
	j.mu.Unlock()
	release.Store(true)
	if err := r.engine.Run(t.Context(), j, r.target()); err != nil {
		t.Fatal(err)
	}
	for k := range r.e.objects {
		if n, want := r.e.count(k), map[bool]int{true: 2, false: 1}[k == "0"]; n != want {
			t.Errorf("%s was read %d times, want %d", k, n, want)
		}
	}
	r.wants(ReadReport(j.now.Report), nil, objects+1, 0, 0, 0, 0)
	r.nothingLeft()
}

// right sets the headers that the object has that was listed.
func right(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", r.Header.Get("If-Match"))
	w.Header().Set("Last-Modified", modified.Format(http.TimeFormat))
}

// An endpoint that does what it should not: nothing wrong becomes visible, and the report says why.
func TestFaults(t *testing.T) {
	for name, c := range map[string]struct {
		wrong  func(e *endpoint) func(w http.ResponseWriter, r *http.Request, key string) bool
		failed uint64 // of the objects "bad" and "good"; 0: the job as a whole
		kind   vfs.Kind
		says   string
	}{
		"another size": {func(*endpoint) func(http.ResponseWriter, *http.Request, string) bool {
			return func(w http.ResponseWriter, r *http.Request, key string) bool {
				if key == "bad" {
					right(w, r)
					_, _ = w.Write([]byte("much longer than it was listed"))
				}
				return key == "bad"
			}
		}, 1, vfs.KindIO, "another object than was listed"},
		"another content": {func(*endpoint) func(http.ResponseWriter, *http.Request, string) bool {
			return func(w http.ResponseWriter, r *http.Request, key string) bool {
				if key == "bad" {
					right(w, r)
					_, _ = w.Write([]byte("BAD content"))
				}
				return key == "bad"
			}
		}, 1, vfs.KindIO, "damaged on the way, or is another object"},
		"another ETag": {func(*endpoint) func(http.ResponseWriter, *http.Request, string) bool {
			return func(w http.ResponseWriter, r *http.Request, key string) bool {
				if key == "bad" {
					right(w, r)
					w.Header().Set("ETag", `"00000000000000000000000000000000"`)
					_, _ = w.Write([]byte("bad content"))
				}
				return key == "bad"
			}
		}, 1, vfs.KindIO, "another object than was listed: its ETag"},
		"changed meanwhile": {func(*endpoint) func(http.ResponseWriter, *http.Request, string) bool {
			return func(w http.ResponseWriter, r *http.Request, key string) bool {
				if key == "bad" {
					w.WriteHeader(http.StatusPreconditionFailed)
				}
				return key == "bad"
			}
		}, 1, vfs.KindIO, "changed or deleted since it was listed"},
		"always truncated": {func(*endpoint) func(http.ResponseWriter, *http.Request, string) bool {
			return func(w http.ResponseWriter, r *http.Request, key string) bool {
				if key == "bad" {
					right(w, r)
					w.Header().Set("Content-Length", "11")
					_, _ = w.Write([]byte("bad"))
					w.(http.Flusher).Flush()
					panic(http.ErrAbortHandler)
				}
				return key == "bad"
			}
		}, 1, vfs.KindIO, "bad"},
		"a wrong checksum": {func(*endpoint) func(http.ResponseWriter, *http.Request, string) bool {
			return func(w http.ResponseWriter, r *http.Request, key string) bool {
				if key == "bad" {
					w.Header().Set("X-Amz-Checksum-Crc32", "AAAAAA==")
				}
				return false
			}
		}, 1, vfs.KindIO, "x-amz-checksum-crc32"},
		"refuses one": {func(e *endpoint) func(http.ResponseWriter, *http.Request, string) bool {
			return func(w http.ResponseWriter, r *http.Request, key string) bool {
				if key == "bad" {
					e.failure(w, http.StatusForbidden, "AccessDenied", "not this one")
				}
				return key == "bad"
			}
		}, 1, vfs.KindIO, "s3:GetObject"},
		"wrong keys": {func(e *endpoint) func(http.ResponseWriter, *http.Request, string) bool {
			return func(w http.ResponseWriter, r *http.Request, _ string) bool {
				e.failure(w, http.StatusForbidden, "SignatureDoesNotMatch", "I was told wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY and AKIAEXAMPLE000000000")
				return true
			}
		}, 0, vfs.KindAccess, "refuses the keys"},
		"no such bucket": {func(e *endpoint) func(http.ResponseWriter, *http.Request, string) bool {
			return func(w http.ResponseWriter, r *http.Request, _ string) bool {
				e.failure(w, http.StatusNotFound, "NoSuchBucket", "none")
				return true
			}
		}, 0, vfs.KindNotFound, "no bucket"},
		"redirects the listing": {func(*endpoint) func(http.ResponseWriter, *http.Request, string) bool {
			return func(w http.ResponseWriter, r *http.Request, key string) bool {
				if key == "" {
					http.Redirect(w, r, "http://127.0.0.1:1/elsewhere", http.StatusTemporaryRedirect)
				}
				return key == ""
			}
		}, 0, vfs.KindInvalid, "redirects"},
		"redirects an object": {func(*endpoint) func(http.ResponseWriter, *http.Request, string) bool {
			return func(w http.ResponseWriter, r *http.Request, key string) bool {
				if key == "bad" {
					http.Redirect(w, r, "/bucket/good", http.StatusFound)
				}
				return key == "bad"
			}
		}, 0, vfs.KindInvalid, "redirects"},
		"lists without an end": {func(*endpoint) func(http.ResponseWriter, *http.Request, string) bool {
			return func(w http.ResponseWriter, r *http.Request, key string) bool {
				if key != "" {
					return false
				}
				fmt.Fprint(w, "<ListBucketResult>")
				row := []byte("<Contents><Key>" + strings.Repeat("k", 1000) + "</Key></Contents>")
				for r.Context().Err() == nil {
					if _, err := w.Write(row); err != nil {
						break
					}
				}
				return true
			}
		}, 0, vfs.KindTooBig, "more than an answer"},
		"lists in disorder": {func(*endpoint) func(http.ResponseWriter, *http.Request, string) bool {
			return func(w http.ResponseWriter, r *http.Request, key string) bool {
				if key != "" {
					return false
				}
				fmt.Fprint(w, "<ListBucketResult><Contents><Key>b</Key></Contents><Contents><Key>a</Key></Contents></ListBucketResult>")
				return true
			}
		}, 0, vfs.KindInvalid, "order"},
		"is no S3": {func(*endpoint) func(http.ResponseWriter, *http.Request, string) bool {
			return func(w http.ResponseWriter, r *http.Request, key string) bool {
				fmt.Fprint(w, "<html>hello")
				return true
			}
		}, 0, vfs.KindIO, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTestRig(t)
			r.e.put("bad", "bad content")
			r.e.put("good", "good content")
			r.e.wrong = c.wrong(r.e)
			rep, rec, err := r.run()
			if vfs.KindOf(err) != c.kind || !strings.Contains(err.Error()+rec.Error, c.says) {
				t.Errorf("%v, kind %v, want %v and %q", err, vfs.KindOf(err), c.kind, c.says)
			}
			if c.failed > 0 {
				r.wants(rep, err, 1, 0, 0, 0, 1)
				if got := r.listing("/to"); !slices.Equal(got, []string{"/to/good 12"}) {
					t.Errorf("%q", got)
				}
				if len(rep.Keys) != 1 || rep.Keys[0].Key != "bad" || rep.Keys[0].Outcome != Failed || rep.Keys[0].Why == "" {
					t.Errorf("%+v", rep.Keys)
				}
			} else if got := r.listing("/to"); slices.Contains(got, "/to/bad 11") || slices.Contains(got, "/to/bad 12") {
				t.Errorf("%q", got)
			}
		})
	}
}

// An object that breaks off goes on where it was.
func TestBreaksOff(t *testing.T) {
	r := newTestRig(t)
	content := strings.Repeat("0123456789", 50_000)
	r.e.put("k", content)
	broken := 0
	r.e.wrong = func(w http.ResponseWriter, req *http.Request, key string) bool {
		if key != "k" || broken == 2 {
			return false
		}
		broken++
		r.e.mu.Lock()
		defer r.e.mu.Unlock()
		off := 0
		_, _ = fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-", &off)
		right(w, req)
		w.Header().Set("Content-Length", fmt.Sprint(len(content)-off))
		if off > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, len(content)-1, len(content)))
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = w.Write([]byte(content[off : off+100_000]))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	rep, _, err := r.run()
	r.wants(rep, err, 1, 0, 0, 0, 0)
	if want := []string{"k ", "k bytes=100000-", "k bytes=200000-"}; !slices.Equal(r.e.ranges, want) {
		t.Errorf("%q, want %q", r.e.ranges, want)
	}
	if sha256.Sum256([]byte(r.content("/to/k"))) != sha256.Sum256([]byte(content)) {
		t.Error("another content")
	}
}

// An endpoint that takes a call and says nothing is given up, in a listing and in an object.
func TestHangs(t *testing.T) {
	for _, where := range []string{"", "k"} {
		t.Run("at "+where, func(t *testing.T) {
			t.Parallel()
			r := newTestRig(t)
			r.engine.o.Patience = 100 * time.Millisecond
			r.e.put("k", "content")
			end := make(chan struct{})
			defer close(end)
			r.e.wrong = func(w http.ResponseWriter, req *http.Request, key string) bool {
				if key != where {
					return false
				}
				if key != "" && req.Header.Get("Range") == "" { // in the middle
					right(w, req)
					w.Header().Set("Content-Length", "7")
					_, _ = w.Write([]byte("con"))
					w.(http.Flusher).Flush()
				}
				select {
				case <-end:
				case <-req.Context().Done():
				}
				return true
			}
			_, rec, err := r.run()
			if vfs.KindOf(err) != vfs.KindIO || !strings.Contains(err.Error()+rec.Error, "does not answer in time") || len(r.listing("/to")) > 0 {
				t.Errorf("%v %v", err, r.listing("/to"))
			}
		})
	}
}

// One that fails for every object is given up.
func TestGivesUp(t *testing.T) {
	r := newTestRig(t)
	for i := range 200 {
		r.e.put(fmt.Sprintf("%03d", i), "content")
	}
	r.e.wrong = func(w http.ResponseWriter, _ *http.Request, key string) bool {
		if key != "" {
			w.WriteHeader(http.StatusInternalServerError)
		}
		return key != ""
	}
	rep, _, err := r.run()
	if err == nil || !strings.Contains(err.Error(), "given up") || rep.Failed < giveUpAfter || rep.Failed > giveUpAfter+10 {
		t.Errorf("%v %+v", err, rep)
	}
}

// The region that an endpoint wants is found out.
func TestRegion(t *testing.T) {
	r := newTestRig(t)
	r.e.put("k", "content")
	r.e.wrong = func(w http.ResponseWriter, req *http.Request, _ string) bool {
		if strings.Contains(req.Header.Get("Authorization"), "/eu-9/s3/") {
			return false
		}
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, "<Error><Code>AuthorizationHeaderMalformed</Code><Message>no</Message><Region>eu-9</Region></Error>")
		return true
	}
	rep, _, err := r.run()
	r.wants(rep, err, 1, 0, 0, 0, 0)
}

func TestQuota(t *testing.T) {
	r := newTestRig(t)
	for i := range 20 {
		r.e.put(fmt.Sprintf("%02d", i), strings.Repeat("x", 1000))
	}
	r.fs.left = 5500
	rep, _, err := r.run()
	if vfs.KindOf(err) != vfs.KindQuota || !strings.Contains(err.Error(), "make room") || rep.Imported != 5 || len(r.listing("/to")) != 5 {
		t.Errorf("%v %+v %q", err, rep, r.listing("/to"))
	}
	r.fs.mu.Lock()
	r.fs.left = -1
	r.fs.mu.Unlock()
	rep, _, err = r.run()
	r.wants(rep, err, 15, 5, 0, 0, 0)
}

// Whoever cancels an import ends it at once, also one whose endpoint hangs.
func TestCanceled(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	r := newTestRig(t)
	defer r.e.Close()
	r.e.put("k", "content")
	began := make(chan struct{})
	r.e.wrong = func(_ http.ResponseWriter, req *http.Request, key string) bool {
		if key == "k" {
			close(began)
			<-req.Context().Done()
		}
		return key == "k"
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-began
		cancel(jobs.ErrCanceled)
	}()
	err := r.engine.Run(ctx, r.job(), r.target())
	if err == nil || !errors.Is(context.Cause(ctx), jobs.ErrCanceled) || len(r.listing("/to")) > 0 {
		t.Errorf("%v %q", err, r.listing("/to"))
	}
	r.nothingLeft()
}

// Internal addresses are refused before anything is sent, and when a name leads there. What it leads to is in the log of the gateway only.
func TestInternalAddress(t *testing.T) {
	r := newTestRig(t)
	var log bytes.Buffer
	r.engine = New(Options{Key: r.engine.o.Key, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if _, err := r.engine.Prepare(r.spec, &r.secrets); vfs.KindOf(err) != vfs.KindPerm {
		t.Errorf("an address: %v", err)
	}
	r.spec.Source.Endpoint = strings.Replace(r.e.URL, "127.0.0.1", "localhost", 1)
	_, _, err := r.run()
	if vfs.KindOf(err) != vfs.KindPerm || !strings.Contains(err.Error(), "internal address") || r.e.count("") != 0 {
		t.Errorf("a name: %v, %d calls", err, r.e.count(""))
	}
	leadsTo := func(s string) bool { return strings.Contains(s, "127.0.0.1") || strings.Contains(s, "::1") }
	if leadsTo(err.Error()) {
		t.Errorf("who asked is told the address: %v", err)
	}
	if !leadsTo(log.String()) || !strings.Contains(log.String(), "host=localhost") {
		t.Errorf("the operator is not: %q", log.String())
	}
}

// The rate is limited for all objects together, and content is whole.
func TestRate(t *testing.T) {
	r := newTestRig(t)
	const n = 3 << 20
	for i := range 4 {
		r.e.put(fmt.Sprint(i), strings.Repeat("x", n/4))
	}
	r.engine = New(Options{Reach: r.engine.o.Reach, Key: r.engine.o.Key, BytesPerSecond: 8 << 20})
	began := time.Now()
	rep, _, err := r.run()
	r.wants(rep, err, 4, 0, 0, 0, 0)
	// What is over the burst takes its time at least, but for what is lost in rounding.
	if took, least := time.Since(began), time.Second*(n-rateBurst)/(8<<20)-10*time.Millisecond; took < least {
		t.Errorf("%d bytes took %v, at least %v at this rate", n, took, least)
	}
}
