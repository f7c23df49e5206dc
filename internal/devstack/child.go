package devstack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// firstBackoff is the pause before the first restart of a child; it doubles with every death in a row.
	firstBackoff = 200 * time.Millisecond
	maxBackoff   = 10 * time.Second
	// settled is how long a child must have lived for its next death to count as the first one again.
	settled = time.Minute
	// pipeGrace is how long the output of an ended child is still read when something it started holds it open.
	pipeGrace = time.Second
)

// ChildSpec says how to run a child. Its address is fixed by its arguments, and so is the same after a
// restart.
type ChildSpec struct {
	Name string
	Path string
	Args []string
	// Ready matches the line on stdout that says that the child serves.
	Ready *regexp.Regexp
	// ReadyIn bounds the wait for that line.
	ReadyIn time.Duration
	// Grace is the time between SIGTERM and SIGKILL.
	Grace time.Duration
	// LogFile takes stdout and stderr, bounded.
	LogFile string
	// Lock is a locked file that the child holds as well: it stays locked until the child too is gone.
	Lock *os.File
	// DeafToStdin says that the program does not end when its stdin closes, so that something must watch for it.
	DeafToStdin bool
}

// Child is a supervised process in a process group of its own: terminal signals do not reach it, and it is
// restarted with backoff until Stop. Its stdin stays open as long as this process lives, so a child that
// heeds it ends with us however we end; on Linux the kernel also kills it.
type Child struct {
	spec   ChildSpec
	report func(Event)
	log    *boundedLog
	pid    atomic.Int64
	stop   context.CancelFunc
	done   chan struct{}
}

// StartChild starts a child and returns when it is ready. It fails, leaving nothing behind, when the child
// ends before it is ready, is not ready in time, or ctx ends first; a child that ended with exit code 2 (bad
// configuration, by our own programs' contract) fails with a SetupError. From then on deaths are reported and
// survived until Stop. Report is called from one goroutine at a time.
func StartChild(ctx context.Context, spec ChildSpec, report func(Event)) (*Child, error) {
	log, err := openLog(spec.LogFile)
	if err != nil {
		return nil, fmt.Errorf("opening the log of %s: %w", spec.Name, err)
	}
	life, stop := context.WithCancel(context.Background())
	c := &Child{spec: spec, report: report, log: log, stop: stop, done: make(chan struct{})}
	first := make(chan error, 1)
	report(Event{Component: spec.Name, Condition: Starting})
	go c.supervise(life, first)
	select {
	case err := <-first:
		if err != nil {
			c.Stop()
			return nil, err
		}
		return c, nil
	case <-ctx.Done():
		c.Stop()
		return nil, fmt.Errorf("starting %s: %w", spec.Name, ctx.Err())
	}
}

// PID is the process id of the current life, or zero between lives.
func (c *Child) PID() int { return int(c.pid.Load()) }

// Stop ends the child (SIGTERM, then SIGKILL of its whole group when the grace is over) and returns when it
// is gone. Calling it again is harmless.
func (c *Child) Stop() {
	c.stop()
	<-c.done
}

// supervise runs lives of the child until it is stopped. The outcome of the first start goes to first;
// later ones are reported.
func (c *Child) supervise(life context.Context, first chan<- error) {
	// The kernel kills the child when the thread that started it ends, not when the process does.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(c.done)
	defer c.log.Close()

	condition, backoff := Ready, firstBackoff
	onReady := func(line string) {
		c.report(Event{Component: c.spec.Name, Condition: condition, Detail: line, PID: c.PID()})
		if condition == Ready {
			first <- nil
		}
		condition = Restarted
	}
	for {
		born := time.Now()
		err := c.live(life, onReady)
		if life.Err() != nil {
			return
		}
		if condition == Ready {
			first <- c.startError(err)
			return
		}
		if time.Since(born) > settled {
			backoff = firstBackoff
		}
		c.report(Event{Component: c.spec.Name, Condition: Died, Detail: c.lastWords(err)})
		select {
		case <-life.Done():
			return
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// startError says why the first start failed, with the child's own words.
func (c *Child) startError(err error) error {
	problem := fmt.Sprintf("%s did not start (%v): %s", c.spec.Name, err, c.log.Tail())
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 2 {
		return &SetupError{Problem: problem, Mend: "mend that and start again; its log is " + c.spec.LogFile, Err: err}
	}
	return fmt.Errorf("%s; its log is %s: %w", problem, c.spec.LogFile, err)
}

// lastWords is why the child died: what it said counts when it ended by itself, and not when it was killed.
func (c *Child) lastWords(err error) string {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && !exit.Exited() {
		return err.Error()
	}
	return fmt.Sprintf("%v: %s", err, c.log.Tail())
}

// live runs the child once and returns why it ended. When it returns nothing of its group is left.
func (c *Child) live(life context.Context, onReady func(line string)) error {
	path, args := c.spec.Path, c.spec.Args
	if c.spec.DeafToStdin {
		path, args = leash(path, args)
	}
	ready := make(chan string, 1)
	cmd := exec.Command(path, args...)
	cmd.Stdout = &lineScanner{each: func(line string) {
		if c.spec.Ready.MatchString(line) {
			select {
			case ready <- line:
			default:
			}
		}
	}, copy: c.log}
	cmd.Stderr = c.log
	cmd.SysProcAttr = childAttributes()
	cmd.WaitDelay = pipeGrace
	if c.spec.Lock != nil {
		cmd.ExtraFiles = []*os.File{c.spec.Lock}
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("opening its stdin: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("launching it: %w", err)
	}
	c.pid.Store(int64(cmd.Process.Pid))
	defer c.pid.Store(0)
	group := -cmd.Process.Pid
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { _ = syscall.Kill(group, syscall.SIGKILL) }() // what the child itself started and left

	deadline := time.NewTimer(c.spec.ReadyIn)
	defer deadline.Stop()
	for {
		select {
		case line := <-ready:
			deadline.Stop()
			ready = nil
			onReady(line)
		case err := <-ended:
			return endError(err)
		case <-deadline.C:
			_ = syscall.Kill(group, syscall.SIGKILL)
			<-ended
			return fmt.Errorf("not ready within %s", c.spec.ReadyIn)
		case <-life.Done():
			_ = syscall.Kill(group, syscall.SIGTERM)
			_ = stdin.Close()
			select {
			case <-ended:
			case <-time.After(c.spec.Grace):
				_ = syscall.Kill(group, syscall.SIGKILL)
				<-ended
			}
			return life.Err()
		}
	}
}

// endError is never nil: a child that ends by itself has failed, whatever its exit code says.
func endError(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}
