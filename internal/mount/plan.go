package mount

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/rackfs/rackfs/vfs"
)

const (
	// transfer is the largest READ and WRITE of the server in bytes.
	transfer = 1 << 20
	// connections of a mount from another machine.
	connections = 4
	// timeo is how long a request is unanswered until it is sent again, in tenths of a second.
	timeo = 600
	// retrans is how often that is until the kernel complains.
	retrans = 2
)

// Server is one that exports what is to be mounted.
type Server struct {
	Address string // host:port
	Near    string // node, rack, zone or cluster
}

// Request says what is to be mounted.
type Request struct {
	Servers  []Server // from near to far
	Path     string   // of the export, or below it
	Target   string   // directory of this machine
	ReadOnly bool
	Options  []string // further ones; they win over those that are chosen

	Own    []netip.Addr // addresses of this machine
	Kernel string       // its release, such as "6.1.0-18-amd64"; "" or odd: a current one
	Choose func(n int) int
}

// Mount is a planned mount.
type Mount struct {
	Source, Target string
	Options        []string
}

// Plan chooses the server and the options.
func Plan(r Request) (Mount, error) {
	const op = "mount"
	if !path.IsAbs(r.Target) {
		return Mount{}, vfs.Errorf(vfs.KindInvalid, op, "mount on %q: name the directory from the root, such as /mnt/data", r.Target)
	}
	for _, s := range append([]string{r.Path, r.Target}, r.Options...) {
		if strings.ContainsAny(s, "\n\x00") {
			return Mount{}, vfs.Errorf(vfs.KindInvalid, op, "%q has a newline in it", s)
		}
	}
	if len(r.Servers) == 0 {
		return Mount{}, vfs.Errorf(vfs.KindUnavailable, op, "there is no server")
	}
	server, own := r.server()
	host, port, err := net.SplitHostPort(server.Address)
	if err != nil {
		return Mount{}, vfs.Errorf(vfs.KindInvalid, op, "address %q of a gateway: %w", server.Address, err)
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() { // it listens on all, this machine's own among them
		host = "127.0.0.1"
		if ip.Is6() {
			host = "::1"
		}
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	m := Mount{Source: host + ":" + r.Path, Target: path.Clean(r.Target)}
	major, minor := version(r.Kernel)
	vers := "4.2"
	if major < 4 {
		vers = "4.1"
	}
	add := func(format string, args ...any) { m.Options = append(m.Options, fmt.Sprintf(format, args...)) }
	add("vers=%s", vers)
	add("proto=tcp")
	add("port=%s", port)
	add("hard")
	add("timeo=%d", timeo)
	add("retrans=%d", retrans)
	add("rsize=%d", transfer)
	add("wsize=%d", transfer)
	if !own && (major > 5 || major == 5 && minor >= 3) {
		add("nconnect=%d", connections)
	}
	if r.ReadOnly {
		add("ro")
	}
	for _, o := range r.Options {
		m.set(o)
	}
	return m, nil
}

// server is the one to mount from, and whether it is on this machine.
func (r *Request) server() (s Server, own bool) {
	for _, s := range r.Servers {
		at, err := netip.ParseAddrPort(s.Address)
		if err == nil && (at.Addr().IsUnspecified() || at.Addr().IsLoopback() || slices.Contains(r.Own, at.Addr().Unmap())) {
			return s, true
		}
	}
	n := 1
	for n < len(r.Servers) && r.Servers[n].Near == r.Servers[0].Near {
		n++
	}
	choose := r.Choose
	if choose == nil {
		choose = rand.IntN
	}
	return r.Servers[choose(n)], false
}

// version is the kernel's of a release; a current one if it cannot be read.
func version(release string) (major, minor int) {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) >= 2 {
		a, err1 := strconv.Atoi(parts[0])
		b, err2 := strconv.Atoi(strings.TrimRight(strings.SplitN(parts[1], "-", 2)[0], "+"))
		if err1 == nil && err2 == nil {
			return a, b
		}
	}
	return 6, 1
}

// exclusive are options of which one takes the place of the other.
var exclusive = map[string]string{"rw": "ro", "ro": "rw", "soft": "hard", "hard": "soft", "softerr": "hard"}

// set adds an option in the place of those that it contradicts.
func (m *Mount) set(option string) {
	key, _, _ := strings.Cut(option, "=")
	m.Options = slices.DeleteFunc(m.Options, func(o string) bool {
		k, _, _ := strings.Cut(o, "=")
		return k == key || k == exclusive[key]
	})
	m.Options = append(m.Options, option)
}

// Command is the command that mounts it.
func (m *Mount) Command() []string {
	return []string{"mount", "-t", "nfs", "-o", strings.Join(m.Options, ","), m.Source, m.Target}
}

// String is the command as it is typed in a shell.
func (m *Mount) String() string {
	words := m.Command()
	for i, w := range words {
		words[i] = quote(w)
	}
	return strings.Join(words, " ")
}

// quote writes a word for a shell.
func quote(w string) string {
	if w != "" && !strings.ContainsFunc(w, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=,@%+[]", r))
	}) {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

// late are the options of a mount that is made at boot.
func (m *Mount) late() string {
	return strings.Join(append(slices.Clone(m.Options), "_netdev", "nofail"), ",")
}

// FSTab is its line of /etc/fstab, as fstab(5) escapes.
func (m *Mount) FSTab() string {
	escape := strings.NewReplacer(" ", `\040`, "\t", `\011`, `\`, `\134`, "#", `\043`).Replace
	return strings.Join([]string{escape(m.Source), escape(m.Target), "nfs", escape(m.late()), "0", "0"}, " ") + "\n"
}

// Unit is the systemd unit that mounts it: the file's name and text. systemd wants the name to be that of the directory.
func (m *Mount) Unit() (name, text string) {
	// '%' begins a specifier in a unit.
	escape := strings.NewReplacer("%", "%%").Replace
	text = fmt.Sprintf(`[Unit]
Description=rackfs file system %s
Wants=network-online.target
After=network-online.target

[Mount]
What=%s
Where=%s
Type=nfs
Options=%s

[Install]
WantedBy=remote-fs.target
`, escape(m.Source), escape(m.Source), escape(m.Target), escape(m.late()))
	return unitName(m.Target) + ".mount", text
}

// unitName escapes a path as systemd-escape --path does.
func unitName(p string) string {
	p = strings.Trim(p, "/")
	if p == "" {
		return "-"
	}
	var b strings.Builder
	for i := range len(p) {
		switch c := p[i]; {
		case c == '/':
			b.WriteByte('-')
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == ':', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String()
}
