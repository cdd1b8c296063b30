//go:build linux

package posix

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Mailer is one of several programs, on machines of their own, that deliver into one maildir and fetch from it at the same time. A message is written to tmp, synced, and
// then linked or renamed into new, so it is there whole or not at all; who renames it from new to cur has fetched it, and nobody else has. Mailers use no locks.
//
// Each says with a file in a directory of its own, done, that it has delivered all. Who sees that all have, and then finds new empty, is done too: each opening of a directory shows what
// was acknowledged to anybody before it.
type Mailer struct {
	Dir, Name string
	N, Of     int // messages that it delivers; how many mailers there are
}

// The directories of a maildir, and where mailers say that they are done.
var maildirs = []string{"tmp", "new", "cur", "done"}

const (
	maxMessage   = 100 << 10
	fetchedInfix = ":2,S" // of a message in cur
	mailPause    = 5 * time.Millisecond
)

// message is the i-th one of a mailer: its length, its digest, and what they are of.
func (m *Mailer) message(i int) []byte {
	rng := rand.New(rand.NewPCG(uint64(i), uint64(m.Name[0])))
	body := fmt.Appendf(nil, "message %d of %s\n", i, m.Name)
	for want := rng.IntN(maxMessage); len(body) < want; {
		body = fmt.Appendf(body, "%x\n", rng.Uint64())
	}
	sum := sha256.Sum256(body)
	return append(fmt.Appendf(nil, "%d %s\n", len(body), hex.EncodeToString(sum[:])), body...)
}

// whole says what is wrong with a message.
func whole(b []byte) error {
	header, body, _ := bytes.Cut(b, []byte("\n"))
	sum := sha256.Sum256(body)
	if want := fmt.Sprintf("%d %s", len(body), hex.EncodeToString(sum[:])); string(header) != want {
		return fmt.Errorf("its header says %q, and it is %q", header, want)
	}
	return nil
}

// deliver puts the i-th message into new and prints its name once it is acknowledged.
func (m *Mailer) deliver(i int) error {
	name := fmt.Sprintf("%d.%s", i, m.Name)
	tmp, to := filepath.Join(m.Dir, "tmp", name), filepath.Join(m.Dir, "new", name)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(m.message(i))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if i%2 == 0 {
		err = unix.Rename(tmp, to)
	} else if err = unix.Link(tmp, to); err == nil {
		err = unix.Unlink(tmp)
	}
	if err != nil {
		return err
	}
	fmt.Println("delivered", name)
	return nil
}

// fetch takes what is in new, and prints the names of what it got.
func (m *Mailer) fetch() (found int, err error) {
	list, err := os.ReadDir(filepath.Join(m.Dir, "new"))
	if err != nil {
		return 0, err
	}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for _, e := range list {
		fetched := filepath.Join(m.Dir, "cur", e.Name()+fetchedInfix)
		err := unix.Rename(filepath.Join(m.Dir, "new", e.Name()), fetched)
		if errors.Is(err, unix.ENOENT) { // another one was faster
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("fetch %s: %w", e.Name(), err)
		}
		b, err := os.ReadFile(fetched)
		if err == nil {
			err = whole(b)
		}
		if err != nil {
			return 0, fmt.Errorf("message %s: %w", e.Name(), err)
		}
		fmt.Println("fetched", e.Name())
	}
	return len(list), nil
}

func (m *Mailer) done() error {
	return os.WriteFile(filepath.Join(m.Dir, "done", m.Name), nil, 0o600)
}

// run delivers and fetches until all mailers have delivered all, and all is fetched. The others do not wait for one that fails.
func (m *Mailer) run() (err error) {
	defer func() {
		if err != nil {
			_ = m.done()
		}
	}()
	delivered := make(chan error, 1)
	go func() {
		for i := range m.N {
			if err := m.deliver(i); err != nil {
				delivered <- fmt.Errorf("deliver message %d: %w", i, err)
				return
			}
		}
		delivered <- m.done()
	}()
	for {
		done, err := os.ReadDir(filepath.Join(m.Dir, "done"))
		if err != nil {
			return err
		}
		found, err := m.fetch()
		if err != nil {
			return err
		}
		if len(done) == m.Of && found == 0 {
			return <-delivered
		}
		select {
		case err := <-delivered:
			if err != nil {
				return err
			}
			delivered <- nil
		default:
		}
		time.Sleep(mailPause)
	}
}

// Mail verifies what mailers printed: everything that was delivered was fetched, by one mailer. It returns how many messages each fetched.
func Mail(outs map[string]string) (fetched map[string]int, err error) {
	delivered, by := map[string]bool{}, map[string]string{}
	fetched = map[string]int{}
	for mailer, out := range outs {
		for line := range strings.Lines(out) {
			verb, name, _ := strings.Cut(strings.TrimSpace(line), " ")
			switch verb {
			case "delivered":
				delivered[name] = true
			case "fetched":
				if by[name] != "" {
					return nil, fmt.Errorf("message %s was fetched by %s and by %s", name, by[name], mailer)
				}
				by[name] = mailer
				fetched[mailer]++
			default:
				return nil, fmt.Errorf("mailer %s says %q", mailer, line)
			}
		}
	}
	for name := range delivered {
		if by[name] == "" {
			return nil, fmt.Errorf("nobody has fetched message %s", name)
		}
	}
	if len(by) != len(delivered) {
		return nil, fmt.Errorf("%d messages were delivered, %d fetched", len(delivered), len(by))
	}
	return fetched, nil
}

func mainMaildir(args []string) error {
	f := flag.NewFlagSet("maildir", flag.ContinueOnError)
	var m Mailer
	f.StringVar(&m.Dir, "dir", "", "the maildir")
	f.StringVar(&m.Name, "name", "", "this mailer, a letter")
	f.IntVar(&m.N, "n", 100, "messages to deliver")
	f.IntVar(&m.Of, "of", 2, "how many mailers there are")
	begin := f.Bool("begin", false, "make the directories, and nothing else")
	if err := f.Parse(args); err != nil {
		return err
	}
	if m.Dir == "" || m.Name == "" && !*begin {
		return errors.New("-dir and -name are needed")
	}
	if *begin {
		for _, d := range maildirs {
			if err := os.MkdirAll(filepath.Join(m.Dir, d), 0o700); err != nil {
				return err
			}
		}
		return nil
	}
	return m.run()
}
