//go:build linux

package web

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/dom"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/rackfs/rackfs/api"
)

// The dashboard is used with keys only, and each page is checked as browsers give it to screen readers, in light and dark.
func TestAccessible(t *testing.T) {
	t.Parallel()
	r := start(t)
	p := r.tab
	step := func(name string, fn func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			fn(t)
			p.clean(t)
		})
	}
	for _, name := range []string{"a.txt", "b.txt", "z.txt"} {
		r.write(t, r.fs, name, []byte("text of "+name))
	}
	// Two workspaces, so that there is a choice.
	if _, err := r.api(t).CreateWorkspace(t.Context(), api.NewWorkspace{Name: "team"}); err != nil {
		t.Fatal(err)
	}
	step("log in", func(t *testing.T) {
		p.visit(t, "/")
		p.see(t, "Log in")
		p.accessible(t, "log in")
		p.press(t, "rackfs_wrong", kb.Enter)
		p.see(t, "This token is not known here")
		p.accessible(t, "not logged in")
		p.visit(t, "/")
		p.until(t, p.active(test("token")))
		p.press(t, r.c.Token(), kb.Enter)
		p.until(t, "location.pathname === '/fs' && document.querySelector("+quote(test("fs-default"))+")")
	})
	if t.Failed() && !p.is("location.pathname === '/fs'") {
		t.FailNow()
	}
	step("what is wrong is found", func(t *testing.T) { p.findsWhatIsWrong(t) })
	step("keys", func(t *testing.T) { byKeys(t, r) })
	step("pages", func(t *testing.T) { accessiblePages(t, r) })
}

//go:embed accessible.js
var accessibleJS string

// accessible checks what is shown now, in light and in dark.
func (p *tab) accessible(t *testing.T, what string) {
	t.Helper()
	for _, scheme := range []string{"dark", "light"} {
		p.run(t, scheme, media(&emulation.MediaFeature{Name: "prefers-color-scheme", Value: scheme}))
		p.until(t, "document.documentElement.dataset.mantineColorScheme === "+quote(scheme))
		for _, s := range p.wrong(t) {
			t.Errorf("%s, %s: %s", what, scheme, s)
		}
		if scheme == "dark" { // the light ones are TestDashboard's
			p.shot(t, "dark-"+strings.ReplaceAll(what, " ", "-"))
		}
	}
}

// wrong is what screen readers and eyes would miss in what is shown now.
func (p *tab) wrong(t *testing.T) []string {
	t.Helper()
	var page struct {
		Wrong        []string
		Texts, Roles int
	}
	p.eval(t, accessibleJS, &page)
	unnamed, named := p.unnamed(t)
	if page.Texts == 0 || named+len(unnamed) == 0 {
		t.Errorf("nothing was checked: %d texts, %d controls", page.Texts, named)
	}
	return append(page.Wrong, unnamed...)
}

// controls are the roles of what acts, or is entered, and has to say what it is.
var controls = []string{"button", "link", "textbox", "searchbox", "checkbox", "combobox", "listbox", "menu", "menuitem", "option", "switch", "radio", "radiogroup", "tab", "spinbutton", "slider", "dialog", "alertdialog", "grid", "progressbar", "region", "navigation"}

// unnamed are the controls without a name, and what Tab reaches and is no control at all, as screen readers have them; and how many have a name.
func (p *tab) unnamed(t *testing.T) (out []string, named int) {
	t.Helper()
	var nodes []*accessibility.Node
	p.run(t, "accessibility tree", chromedp.ActionFunc(func(ctx context.Context) (err error) {
		nodes, err = accessibility.GetFullAXTree().Do(ctx)
		return err
	}))
	text := func(v *accessibility.Value) (s string) {
		if v != nil {
			_ = json.Unmarshal([]byte(v.Value), &s)
		}
		return strings.TrimSpace(s)
	}
	for _, n := range nodes {
		role := text(n.Role)
		if n.Ignored || !slices.Contains(controls, role) {
			continue
		}
		if text(n.Name) != "" {
			named++
			continue
		}
		out = append(out, fmt.Sprintf("a %s has no name: %s", role, p.describe(t, n)))
	}
	return out, named
}

// describe is the beginning of the element of a node.
func (p *tab) describe(t *testing.T, n *accessibility.Node) string {
	t.Helper()
	var s string
	p.run(t, "describe", chromedp.ActionFunc(func(ctx context.Context) error {
		html, err := dom.GetOuterHTML().WithBackendNodeID(n.BackendDOMNodeID).Do(ctx)
		s = html[:min(len(html), 200)]
		return err
	}))
	return s
}

// findsWhatIsWrong puts into the page what is wrong, once.
func (p *tab) findsWhatIsWrong(t *testing.T) {
	before := p.wrong(t)
	p.eval(t, `(() => {
		const d = document.createElement("div");
		d.id = "planted";
		d.innerHTML = '<button></button><p>pale</p><div role="rowgroup" aria-activedescendant="nowhere"></div><input placeholder="Name">';
		d.querySelector("p").style.color = "#999999";
		d.style.background = "#ffffff";
		document.querySelector("main").append(d);
		return true;
	})()`, nil)
	found := strings.Join(slices.DeleteFunc(p.wrong(t), func(s string) bool { return slices.Contains(before, s) }), "\n")
	for _, want := range []string{"a button has no name", "(pale) has a contrast of 2.85", "aria-activedescendant is not for the role rowgroup", "names nowhere", "has to be in one of grid"} {
		if !strings.Contains(found, want) {
			t.Errorf("%q is not found: %s", want, found)
		}
	}
	p.eval(t, `document.getElementById("planted").remove() ?? true`, nil)
}

// press types, or presses keys, one after the other, in what has the focus.
func (p *tab) press(t *testing.T, keys ...string) {
	t.Helper()
	for _, k := range keys {
		p.run(t, "press "+quote(k), chromedp.KeyEvent(k))
	}
}

// active is an expression: what a selector finds has the focus.
func (p *tab) active(selector string) string {
	return "document.activeElement?.matches(" + quote(selector) + ")"
}

// is is whether an expression is true now.
func (p *tab) is(js string) bool {
	var ok bool
	return chromedp.Run(p.ctx, chromedp.Evaluate("!!("+js+")", &ok)) == nil && ok
}

// focusSeen is the problem with how one sees what has the focus, if there is one: an outline of it or of what stands for it, or a border of a field, with a contrast that is enough.
const focusSeen = `(() => {
	document.getAnimations().forEach((a) => a instanceof CSSTransition && a.finish());
	const e = document.activeElement;
	if (!e || e === document.body) return "";
	const stands = [e, ...(e.parentElement?.children ?? []), ...e.querySelectorAll(".row.active"), ...(e.labels ?? [])];
	const inView = stands.some((x) => { const b = x.getBoundingClientRect(); return b.width > 1 && b.height > 1 && b.right > 0 && b.bottom > 0 && b.left < innerWidth && b.top < innerHeight });
	const outlined = e.matches(":focus-visible") && stands.some((x) => (s => s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 1 && !/, 0\)$/.test(s.outlineColor))(getComputedStyle(x)));
	const field = e.matches("input:not([type=checkbox], [type=radio]), textarea") && getComputedStyle(e).borderTopColor === (() => { const d = document.createElement("i"); d.style.color = "var(--mantine-primary-color-filled)"; document.body.append(d); const c = getComputedStyle(d).color; d.remove(); return c })();
	return inView && (outlined || field) ? "" : "the focus is not seen on " + e.outerHTML.slice(0, 200);
})()`

// tabTo presses Tab until what a selector finds has the focus, and fails if the focus is not seen on the way.
func (p *tab) tabTo(t *testing.T, selector string) {
	t.Helper()
	p.until(t, "document.querySelector("+quote(selector)+")")
	const stops = 60
	for range stops {
		p.press(t, kb.Tab)
		p.focusIsSeen(t)
		if p.is(p.active(selector)) {
			return
		}
	}
	p.fail(t, "Tab never came to %s", selector)
}

func (p *tab) focusIsSeen(t *testing.T) {
	t.Helper()
	var problem string
	p.eval(t, focusSeen, &problem)
	if problem != "" {
		t.Error(problem)
	}
}

// byKeys opens a file system, makes a folder, selects, renames, and deletes it, without a mouse.
func byKeys(t *testing.T, r *rig) {
	p := r.tab
	const name = "by keys"
	inMenu := "document.activeElement?.closest('[role=menu]')"
	inDialog := "document.activeElement?.closest('[role=dialog]')"
	p.tabTo(t, "a[href='/files/default/default']")
	p.press(t, kb.Enter)
	p.seeRow(t, "z.txt")

	// A folder, by the menu. The focus goes back to where the menu was opened.
	p.tabTo(t, test("new"))
	p.press(t, kb.Enter)
	p.until(t, inMenu)
	p.press(t, kb.Escape)
	p.until(t, p.active(test("new")))
	p.focusIsSeen(t)
	p.press(t, kb.Enter)
	p.until(t, inMenu)
	p.press(t, kb.ArrowDown)
	p.until(t, p.active(test("new-folder")))
	p.press(t, kb.Enter)
	p.until(t, p.active(test("name")))
	p.press(t, name, kb.Enter)
	p.seeRow(t, name)
	p.until(t, "!document.querySelector('[role=dialog]') && "+p.active(test("new")))

	// It is selected in the list, whose row is what screen readers have as active.
	p.tabTo(t, test("files"))
	p.press(t, kb.Home)
	activeRow := "document.getElementById(document.activeElement.getAttribute('aria-activedescendant'))"
	for i := 0; !p.is(activeRow + "?.dataset.name === " + quote(name)); i++ {
		if i > 10 {
			p.fail(t, "arrows never came to %s", name)
		}
		p.press(t, kb.ArrowDown)
	}
	p.focusIsSeen(t)
	p.press(t, " ")
	p.until(t, activeRow+".ariaSelected === 'true'")
	p.until(t, p.has("status", "1 of "))

	// Rename, and not after all.
	p.press(t, kb.F2)
	p.until(t, p.active(test("name")))
	p.press(t, "x", kb.Escape)
	p.until(t, "!document.querySelector('[role=dialog]') && "+p.active(test("files")))
	p.seeRow(t, name)
	// By its button, too; Tab stays in the dialog.
	p.press(t, kb.Home)
	p.tabTo(t, test("rename"))
	p.press(t, kb.Enter)
	p.until(t, p.active(test("name")))
	for range 5 {
		p.press(t, kb.Tab)
		p.focusIsSeen(t)
		if !p.is(inDialog) {
			t.Error("Tab leaves the dialog")
		}
	}
	p.press(t, kb.Escape)
	p.until(t, "!document.querySelector('[role=dialog]') && "+p.active(test("rename")))

	// Delete, after the question, which begins at what does no harm.
	p.tabTo(t, test("files"))
	p.press(t, kb.Delete)
	p.until(t, inDialog+" && document.activeElement.innerText === 'Cancel'")
	p.tabTo(t, test("confirm"))
	p.press(t, kb.Enter)
	p.noRow(t, name)
	p.until(t, "!document.querySelector('[role=dialog]') && "+p.active(test("files")))
}

// accessiblePages checks all pages, with menus and dialogs.
func accessiblePages(t *testing.T, r *rig) {
	p := r.tab
	closed := "![...document.querySelectorAll('[role=dialog], [role=menu], [role=listbox]')].some(e => e.checkVisibility())"
	shut := func() {
		p.keys(t, "Escape", 0)
		p.until(t, closed)
	}
	p.visit(t, "/fs")
	p.until(t, "document.querySelector("+quote(test("fs-default"))+")?.innerText.includes('10.0 GiB')")
	p.accessible(t, "file systems")
	p.clickOn(t, "workspace")
	p.until(t, "document.querySelector('[role=option]')?.checkVisibility()")
	p.accessible(t, "workspaces")
	shut()
	p.click(t, "document.querySelector('.who')")
	p.see(t, "Log out")
	p.accessible(t, "who")

	// Many entries, of which few are in the page; the active one stays among them, wherever the list is scrolled to.
	dir, _, err := r.nfs.Mkdir(t.Context(), r.fs, "many", 0o755)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, r.nfs, dir, 300)
	p.visit(t, "/files/default/default?path=/many")
	p.until(t, "document.querySelector('.files [role=grid]')?.ariaRowCount === '301'")
	p.eval(t, "(s => { s.scrollTop = 5000; return true })(document.querySelector('.files .scroll'))", nil)
	p.until(t, "[...document.querySelectorAll('.row')].some(r => r.ariaRowIndex > 130) && !document.querySelector('.row[aria-rowindex=\"60\"]')")
	p.accessible(t, "many files")

	p.visit(t, "/files/default/default")
	p.seeRow(t, "z.txt")
	p.click(t, row("a.txt")+"?.querySelector('.num')")
	p.until(t, p.has("status", "1 of "))
	p.accessible(t, "files")
	p.clickOn(t, "upload")
	p.until(t, "document.querySelector("+quote(test("from-cloud"))+")?.checkVisibility()")
	p.accessible(t, "upload menu")
	p.clickOn(t, "from-cloud")
	p.clickOn(t, "import-more")
	p.until(t, "document.querySelector("+quote(test("import-s3-endpoint"))+")?.checkVisibility()")
	p.accessible(t, "import")
	shut()
	p.click(t, row("b.txt")+"?.querySelector('[aria-label^=Actions]')")
	p.see(t, "Preview")
	p.accessible(t, "row menu")
	shut()
	p.clickOn(t, "rename")
	p.typeIn(t, test("name"), "a/b")
	p.clickOn(t, "submit")
	p.see(t, "A name has no slash.")
	p.accessible(t, "rename")
	shut()
	p.clickOn(t, "delete")
	p.see(t, "This cannot be undone.")
	p.accessible(t, "delete")
	shut()
	p.click(t, row("b.txt")+"?.querySelector('button.cell')")
	p.see(t, "text of b.txt")
	p.accessible(t, "preview")
	shut()
	p.visit(t, "/files/default/default?path=/nowhere")
	p.see(t, "cannot be listed")
	p.accessible(t, "trouble")

	p.visit(t, "/jobs")
	p.until(t, "document.querySelector("+quote(test("jobs"))+")?.querySelector('tr[data-state=done]')")
	p.accessible(t, "jobs")
	p.visit(t, "/cluster")
	p.until(t, "document.querySelectorAll('"+test("racks")+" .store').length === 6 && document.querySelector('"+test("pools")+"')?.innerText.includes('4+2')")
	p.accessible(t, "cluster")
	p.visit(t, "/mount")
	p.until(t, p.has("mount-command", "/mnt/default"))
	p.accessible(t, "mount")
	p.visit(t, "/tokens")
	p.until(t, "document.querySelector("+quote(test("token-dev"))+")")
	p.accessible(t, "tokens")
	p.clickOn(t, "new-token")
	p.typeIn(t, test("token-name"), "a")
	p.accessible(t, "new token")
}
