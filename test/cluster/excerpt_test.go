//go:build linux

package cluster

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// varies is what differs between lines of a log that say the same again.
var varies = regexp.MustCompile(`time=\S+ |"?(backoff time|repeated)"?=\S+|remote=\S+`)

// excerpt is the end of a log, at most limit bytes. Of lines that say the same again and again, as those of a leader do whose follower
// is dead, the first and the last are shown, and how many there were between them: else the end has nothing but those.
func excerpt(log string, limit int) string {
	lines := strings.Split(strings.TrimRight(log, "\n"), "\n")
	what := make([]string, len(lines))
	last, count := map[string]int{}, map[string]int{}
	for i, l := range lines {
		what[i] = varies.ReplaceAllString(l, "")
		last[what[i]] = i
		count[what[i]]++
	}
	seen := map[string]bool{}
	var out []string
	for i, l := range lines {
		switch w := what[i]; {
		case !seen[w]:
			seen[w] = true
		case last[w] != i:
			continue
		case count[w] > 2:
			l += fmt.Sprintf(" [and %d times between]", count[w]-2)
		}
		out = append(out, l)
	}
	text := strings.Join(out, "\n")
	if cut := len(text) - limit; cut > 0 {
		text = text[cut:]
		text = "[...]" + text[strings.IndexByte(text, '\n')+1:]
	}
	return text
}

func TestExcerpt(t *testing.T) {
	var log strings.Builder
	log.WriteString("time=1 level=INFO msg=\"slot filled\" pg=9\n")
	for i := range 1000 {
		fmt.Fprintf(&log, "time=%d level=WARN msg=\"raft: failed to heartbeat to\" shard=%d \"backoff time\"=%dms error=\"refused\" repeated=15\n", i, i%2, i)
	}
	log.WriteString("time=1001 level=INFO msg=\"slot filled\" pg=10\n")
	got := excerpt(log.String(), 8000)
	if n := strings.Count(got, "\n") + 1; n != 6 || strings.Count(got, "slot filled") != 2 || strings.Count(got, "[and 498 times between]") != 2 {
		t.Errorf("%d lines:\n%s", n, got)
	}
	if got := excerpt("a 1\nb 2\nc 3\n", 7); got != "[...]b 2\nc 3" && got != "[...]c 3" {
		t.Errorf("the end: %q", got)
	}
	if got := excerpt("", 10); got != "" {
		t.Errorf("nothing: %q", got)
	}
}
