//go:build linux

package web

import (
	"os"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
)

// The deletion of a folder, which manage asked for, is a job.
func jobsPage(t *testing.T, r *rig) {
	p := r.tab
	p.visit(t, "/jobs")
	p.until(t, "[...document.querySelectorAll('"+test("jobs")+" tbody tr')].some(j => j.dataset.state === 'done' && j.innerText.includes('/work & play/tree'))")
	p.shot(t, "jobs")
}

func clusterPage(t *testing.T, r *rig) {
	p := r.tab
	p.visit(t, "/cluster")
	p.until(t, "document.querySelectorAll('"+test("racks")+" .store').length === 6")
	p.until(t, "document.querySelector('"+test("pools")+"')?.innerText.includes('4+2')")
	p.shot(t, "cluster")
	p.run(t, "dark", media(&emulation.MediaFeature{Name: "prefers-color-scheme", Value: "dark"}))
	p.until(t, "document.documentElement.dataset.mantineColorScheme === 'dark'")
	p.shot(t, "cluster-dark")
	p.visit(t, "/files/default/default")
	p.seeRow(t, "preview")
	p.shot(t, "browser-dark")
	p.run(t, "light", media())
}

// pick chooses in a select.
func (p *tab) pick(t *testing.T, mark, option string) {
	t.Helper()
	p.clickOn(t, mark)
	p.click(t, "[...document.querySelectorAll('[role=option]')].find(e => e.innerText.trim().startsWith("+quote(option)+") && e.getClientRects().length > 0)")
}

// text is what an element shows.
func (p *tab) text(t *testing.T, mark string) (s string) {
	t.Helper()
	p.until(t, "document.querySelector("+quote(test(mark))+")")
	p.eval(t, "document.querySelector("+quote(test(mark))+").innerText", &s)
	return s
}

func (p *tab) has(mark, part string) string {
	return "document.querySelector(" + quote(test(mark)) + ")?.innerText.includes(" + quote(part) + ")"
}

func mountPage(t *testing.T, r *rig) {
	p := r.tab
	p.visit(t, "/mount")
	address := r.c.NFSAddr()
	host, port := address[:strings.LastIndex(address, ":")], address[strings.LastIndex(address, ":")+1:]
	p.until(t, p.has("mount-command", "port="+port+","))
	p.until(t, p.has("mount-command", host+":/default /mnt/default"))
	p.typeIn(t, test("mount-from"), "/preview")
	p.typeIn(t, test("mount-as"), "/srv/my data")
	p.until(t, p.has("mount-command", host+":/default/preview '/srv/my data'"))
	p.clickText(t, "/etc/fstab")
	p.until(t, p.has("mount-fstab", host+`:/default/preview /srv/my\040data nfs `))
	p.clickText(t, "Kubernetes")
	yaml := p.text(t, "mount-yaml")
	for _, want := range []string{"driver: nfs.csi.k8s.io", `server: "` + host + `"`, `share: "/default/preview"`, `"port=` + port + `"`, "storage: 10Gi", "kind: PersistentVolumeClaim", `mountPath: "/srv/my data"`} {
		if !strings.Contains(yaml, want) {
			t.Errorf("the volume lacks %s:\n%s", want, yaml)
		}
	}
	p.shot(t, "mount")
	p.typeIn(t, test("mount-from"), "/nowhere")
	p.see(t, "no such file")
	p.until(t, "!document.querySelector("+quote(test("mount-yaml"))+")")
	if os.Geteuid() != 0 {
		return
	}
	// Local volumes appear for their group, and are mounted whole.
	var options string
	p.clickOn(t, "mount-fs")
	p.eval(t, "[...document.querySelectorAll('[role=option]')].map(e => e.innerText).join()", &options)
	if strings.Contains(options, "scratch") {
		t.Errorf("without a group there is %s", options)
	}
	p.keys(t, "Escape", 0)
	p.pick(t, "mount-group", "local")
	p.pick(t, "mount-fs", "scratch")
	p.until(t, p.has("mount-command", ":/scratch /mnt/scratch"))
	p.see(t, "unreplicated")
	p.clickText(t, "Kubernetes")
	p.until(t, p.has("mount-yaml", "nodeAffinity"))
	p.typeIn(t, test("mount-from"), "/job")
	p.see(t, "scratch is of kind local, which is mounted whole")
	p.until(t, "!document.querySelector("+quote(test("mount-yaml"))+")")
	p.shot(t, "mount-local")
}

func tokensPage(t *testing.T, r *rig) {
	p := r.tab
	p.visit(t, "/tokens")
	p.until(t, "document.querySelector("+quote(test("token-dev"))+")?.innerText.includes('the whole cluster')")
	p.clickOn(t, "new-token")
	p.typeIn(t, test("token-name"), "<b>reader</b>")
	p.typeIn(t, test("token-scopes"), "default/default:/preview")
	p.keys(t, "Enter", 0)
	p.clickOn(t, "make-token")
	p.see(t, "a token has a name of 1 to 63 characters without '/'")
	p.typeIn(t, test("token-name"), "<b>reader")
	p.clickOn(t, "make-token")
	secret := p.text(t, "secret")
	if !strings.HasPrefix(secret, "rackfs_") {
		t.Fatalf("the token is %q", secret)
	}
	p.shot(t, "token")
	p.clickText(t, "Done")
	mine := "document.querySelector(" + quote(`[data-test="token-<b>reader"]`) + ")"
	p.until(t, mine+"?.innerText.includes('default/default:/preview')")
	var page string
	p.eval(t, "document.documentElement.outerHTML", &page)
	if strings.Contains(page, secret) {
		t.Error("the token is still in the page after it was shown")
	}
	p.shot(t, "tokens")

	// Who may only read a part is offered no more than that.
	p.click(t, "document.querySelector('.who')")
	p.clickText(t, "Log out")
	p.typeIn(t, test("token"), secret)
	p.clickOn(t, "log-in")
	p.until(t, "location.pathname === '/fs' && document.querySelector("+quote(test("fs-default"))+")")
	var shown string
	p.eval(t, "document.querySelector('nav').innerText", &shown)
	if strings.Contains(shown, "Cluster") || strings.Contains(shown, "Tokens") {
		t.Errorf("a viewer of a path is offered %q", shown)
	}
	p.visit(t, "/files/default/default")
	p.clickText(t, "/preview")
	p.seeRow(t, "page.html")
	var bar string
	p.click(t, row("page.html")+"?.querySelector('.num')")
	p.until(t, "document.querySelector('"+test("status")+"').innerText.includes('1 of 5')")
	p.eval(t, "document.querySelector('"+test("toolbar")+"').innerText", &bar)
	for _, s := range []string{"Upload", "New", "Rename", "Delete"} {
		if strings.Contains(bar, s) {
			t.Errorf("a viewer is offered %s: %q", s, bar)
		}
	}
	p.shot(t, "viewer")
	// Others' paths are refused with words.
	p.visit(t, "/files/default/default?path=/long")
	p.see(t, "is not for default/default:/long")

	// A token that is revoked meanwhile: the page asks to log in.
	if _, err := r.api(t).RevokeAccessToken(t.Context(), "<b>reader"); err != nil {
		t.Fatal(err)
	}
	p.visit(t, "/files/default/default?path=/preview")
	p.see(t, "Log in")
	p.typeIn(t, test("token"), r.c.Token())
	p.clickOn(t, "log-in")
	p.seeRow(t, "page.html")
}
