package parallel

import (
	"flag"
	"os"
	"os/exec"
	"testing"
)

// As many tests run at once as the package says, or as who runs them says.
func TestAtOnce(t *testing.T) {
	const child = "RACKFS_TEST_CHILD"
	if os.Getenv(child) != "" {
		if err := AtOnce(7); err != nil {
			t.Fatal(err)
		}
		if got := flag.Lookup(name).Value.String(); got != os.Getenv(child) {
			t.Fatalf("%s tests run at once", got)
		}
		return
	}
	for want, args := range map[string][]string{"7": nil, "3": {"-test.parallel=3"}} {
		cmd := exec.Command(os.Args[0], append([]string{"-test.run=^TestAtOnce$"}, args...)...)
		cmd.Env = append(os.Environ(), child+"="+want)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("want %s: %v\n%s", want, err, out)
		}
	}
}
