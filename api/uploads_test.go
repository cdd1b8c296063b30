package api

import (
	"testing"

	"github.com/rackfs/rackfs/vfs"
)

// An upload of which all has come, and that could not be put to its place then, is not said to be complete: it is put there by whoever asks how far it is, or he is told that it cannot be.
func TestUploadIsPutToItsPlaceLater(t *testing.T) {
	g := newTestGateway(t, Options{})
	k := g.dial().Tree("w", "f")
	at := g.begun("/file", 7)
	down := true
	g.fs.move = func() error {
		if down {
			return vfs.Errorf(vfs.KindUnavailable, "test", "nobody answers")
		}
		return nil
	}
	if w := g.call("PATCH", at, []byte("content"), "Upload-Offset", "0"); w.Code != 503 {
		t.Fatalf("the last piece: %d %s", w.Code, w.Body)
	}
	if w := g.call("HEAD", at, nil); w.Code != 503 {
		t.Errorf("how far it is, when it cannot be put to its place: %d %v", w.Code, w.Header())
	}
	if _, err := k.ResumeUpload(t.Context(), at); !vfs.KindOf(err).Retryable() {
		t.Errorf("the client is told %v", err)
	}
	down = false
	if got := g.content("/file"); got != "nothing" {
		t.Fatalf("it is there already: %q", got)
	}
	up, err := k.ResumeUpload(t.Context(), at)
	if got := g.content("/file"); err != nil || up.Offset != 7 || got != "content" {
		t.Errorf("%+v %v, the file is %q", up, err, got)
	}
	// Asked again it does not come to the place of what is there by now.
	if _, err := g.tree.FS.Remove(t.Context(), &vfs.Root, vfs.RootIno, "file", vfs.RemoveFile); err != nil {
		t.Fatal(err)
	}
	if w := g.call("HEAD", at, nil); w.Code != 200 || w.Header().Get("Upload-Offset") != "7" || g.content("/file") != "nothing" {
		t.Errorf("asked again: %d %v", w.Code, w.Header())
	}
}

// Who asks how far an upload is while the last piece is being put to its place is to try again.
func TestUploadIsBeingPutToItsPlace(t *testing.T) {
	g := newTestGateway(t, Options{})
	k := g.dial().Tree("w", "f")
	at := g.begun("/file", 7)
	moving, moved := make(chan struct{}), make(chan struct{})
	g.fs.move = func() error {
		close(moving)
		<-moved
		return nil
	}
	sent := make(chan int)
	go func() { sent <- g.call("PATCH", at, []byte("content"), "Upload-Offset", "0").Code }()
	<-moving
	if _, err := k.ResumeUpload(t.Context(), at); vfs.KindOf(err) != vfs.KindLocked {
		t.Errorf("meanwhile: %v", err)
	}
	close(moved)
	if code := <-sent; code != 204 || g.content("/file") != "content" {
		t.Errorf("%d, the file is %q", code, g.content("/file"))
	}
	if up, err := k.ResumeUpload(t.Context(), at); err != nil || up.Offset != 7 {
		t.Errorf("after that: %+v %v", up, err)
	}
}
