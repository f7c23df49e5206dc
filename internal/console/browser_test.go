package console_test

import (
	"context"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/console"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/notify"
)

// browser opens a headless Chromium and collects what its console complains about: script errors and
// everything that the content security policy refused.
func browser(t *testing.T) (ctx context.Context, complaints func() []string) {
	binary := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if found, err := exec.LookPath(name); err == nil {
			binary = found
			break
		}
	}
	if binary == "" {
		t.Skip("no Chromium is on the PATH; install Debian's chromium to see the console in a real browser")
	}
	options := []chromedp.ExecAllocatorOption{chromedp.ExecPath(binary), chromedp.UserDataDir(t.TempDir())}
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium's sandbox refuses to run as root
	}
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(stop)
	ctx, stop = chromedp.NewContext(ctx, chromedp.WithAllocatorOptions(options...))
	require.NoError(t, chromedp.Do(ctx, chromedp.EmulateViewport(1280, 900)))
	var mu sync.Mutex
	var said []string
	var reading sync.WaitGroup
	messages := chromedp.Console(ctx)
	reading.Go(func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			mu.Lock()
			said = append(said, m.Text)
			mu.Unlock()
		}
	})
	t.Cleanup(func() {
		stop()
		reading.Wait()
	})
	return ctx, func() []string { mu.Lock(); defer mu.Unlock(); return append([]string{}, said...) }
}

// picture keeps a screenshot of the whole page among the test's artifacts.
func picture(t *testing.T, name string) step {
	return chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
		if err != nil {
			return fmt.Errorf("taking a picture: %w", err)
		}
		return os.WriteFile(filepath.Join(t.ArtifactDir(), name+".png"), png, 0o644)
	})
}

// step is one action in the browser.
type step = chromedp.Action[chromedp.Void]

func scheme(name string) step {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}},
		})
		return err
	})
}

// choose chooses an option, as a person does.
func choose(selector, value string) step {
	return poll(fmt.Sprintf(`(() => { const s = document.querySelector(%q); if (!s) return false; s.value = %q; s.dispatchEvent(new Event("change")); return s.value === %q; })()`, selector, value, value))
}

func poll(condition string) step { return chromedp.Poll[chromedp.Void](condition) }

func text(t *testing.T, ctx context.Context, selector chromedp.CSS) string {
	s, err := chromedp.Run(ctx, chromedp.Text(selector))
	require.NoError(t, err)
	return s
}

func TestInBrowser(t *testing.T) {
	ctx, complaints := browser(t)
	w := story(time.Now().UTC())
	server := httptest.NewServer(w.handler(t))
	defer server.Close()
	run := func(steps ...step) {
		t.Helper()
		require.NoError(t, chromedp.Do(ctx, steps...))
	}

	// The first look: figures, keys in order of trouble, the charts of the worst one.
	run(scheme("light"), chromedp.Navigate(server.URL),
		chromedp.WaitVisible(chromedp.CSS("#inbox .question")),
		chromedp.WaitVisible(chromedp.CSS("#incidents .incident.bad")),
		chromedp.WaitVisible(chromedp.CSS("#keys .charts:not([hidden]) .line.plain .stroke")))
	require.Contains(t, text(t, ctx, "#inbox"), "Downgrade to claude-3-sonnet")
	require.Contains(t, text(t, ctx, "#incidents"), "step T+5")
	require.Contains(t, text(t, ctx, "#acts"), "holdback 5 %")
	require.Contains(t, text(t, ctx, "#banner"), "Demo profile")
	require.Contains(t, text(t, ctx, "#keys .key:first-child"), "claude-3-opus")
	require.Contains(t, text(t, ctx, "#keys .key:first-child .ratio.bad"), "× 2.")
	title, err := chromedp.Run(ctx, chromedp.Title())
	require.NoError(t, err)
	run(picture(t, "light-1280"), scheme("dark"), picture(t, "dark-1280"))
	require.Equal(t, "(1) Flyball", title)

	// A link from Slack or PagerDuty leads to what it names, or says that it is over.
	links := notify.Links{Console: server.URL}
	for _, id := range []string{w.incidents[1].ID, w.decisions[0].ID} {
		run(chromedp.Navigate(links.Incident(id)), poll(fmt.Sprintf(`document.querySelector("[data-linked]")?.id === %q`, id)))
	}
	require.Contains(t, text(t, ctx, "#incidents"), "rag-v3.2 carries 91 % of the rise")
	run(picture(t, "linked"), chromedp.Navigate(links.Incident("incident/a b/gone/1")), chromedp.WaitVisible(chromedp.CSS("#linked a")))
	require.Contains(t, text(t, ctx, "#linked"), "not open any more: incident/a b/gone/1")
	w.change(func() { w.decisions[1].Action, w.decisions[1].Value = contract.RollBack, "rag-service" })
	run(chromedp.Navigate(server.URL+"/#"), poll(`document.getElementById("acts").textContent.includes("Rollback of rag-service")`),
		poll(`document.getElementById("linked").hidden`))

	// A phone: everything fits its width.
	run(chromedp.EmulateViewport(390, 844))
	overflow, err := chromedp.Run(ctx, chromedp.Evaluate[int](`document.documentElement.scrollWidth - innerWidth`))
	require.NoError(t, err)
	run(picture(t, "dark-390"), scheme("light"), picture(t, "light-390"), chromedp.EmulateViewport(1280, 900))
	require.LessOrEqual(t, overflow, 0, "the page scrolls sideways on a phone")

	// The keyboard opens the second key and reads its chart.
	run(chromedp.Focus(chromedp.CSS("#keys .key:nth-child(2) .row")), chromedp.KeyEvent(kb.Enter),
		chromedp.WaitVisible(chromedp.CSS("#keys .key:nth-child(2) .line.treated .stroke")),
		chromedp.Focus(chromedp.CSS("#keys .key:nth-child(2) .chart:nth-child(2) .plot")), chromedp.KeyEvent(kb.ArrowLeft))
	require.Regexp(t, `untreated\s*\$0\.00\d+\s*treated\s*\$0\.00\d+`, text(t, ctx, "#keys .key:nth-child(2) .chart:nth-child(2) .legend"))
	run(picture(t, "reading"))

	// A verdict needs a name, a denial a reason; what is half written survives the refreshes.
	const question, problem chromedp.CSS = "#inbox .question", "#inbox .question .problem"
	run(chromedp.Click(question+" .primary"), chromedp.WaitVisible(problem))
	require.Contains(t, text(t, ctx, problem), "who you are")
	run(chromedp.SendKeys(chromedp.CSS("#who"), "Dana"),
		chromedp.Click(question+" > .buttons button:nth-child(2)"),
		chromedp.WaitVisible(question+" textarea"),
		chromedp.Click(question+" .danger"), chromedp.WaitVisible(problem))
	require.Contains(t, text(t, ctx, problem), "Give a reason")
	run(chromedp.SendKeys(question+" textarea", "not on"))
	w.change(func() { w.decisions[0].Reason = "A new reason arrived." })
	run(poll(`document.querySelector("#inbox .why").textContent === "A new reason arrived."`),
		chromedp.SendKeys(question+" textarea", " launch day"), picture(t, "denying"))
	require.Empty(t, w.given())
	asked := w.decisions[0]
	run(chromedp.Click(question+" .danger"), chromedp.WaitVisible(chromedp.CSS("#inbox .empty")))
	require.Equal(t, []console.Verdict{{ID: asked.ID, Verdict: "deny", Who: "Dana", Reason: "not on launch day"}}, w.given())

	// Asked again, and approved: it moves to the acts under way.
	asked.ID, asked.Handle = asked.ID+"2", "c3d9e1"
	w.change(func() { w.decisions = append(w.decisions, asked) })
	run(chromedp.WaitVisible(question), chromedp.Click(question+" .primary"),
		poll(`document.querySelectorAll("#acts .act").length === 2`))
	require.Equal(t, console.Verdict{ID: asked.ID, Verdict: "approve", Who: "Dana"}, w.given()[1])
	require.Empty(t, complaints())

	// Incidents can be taken on, noted on, muted and stepped through; a group shows its keys.
	const page, group chromedp.CSS = "#incidents .incident.bad", "#incidents .incident:first-child"
	require.Contains(t, text(t, ctx, group), "Many keys fail: provider:google")
	require.Contains(t, text(t, ctx, group), "8 keys are in it.")
	require.Contains(t, text(t, ctx, page), "Last time")
	require.NotContains(t, text(t, ctx, page), "Split", "it is of one key")
	require.NotContains(t, text(t, ctx, group), "Step …", "it walks no runbook")
	run(chromedp.Click(page+" .acts button:first-child"), poll(`document.querySelector("#incidents .incident.bad .facts").innerText.includes("Taken on by Dana")`),
		chromedp.Click(page+` [data-form="annotate"]`), chromedp.SendKeys(page+" textarea", "rolled back at 10:40"), chromedp.KeyEvent(kb.Escape),
		poll(`document.activeElement.dataset.form === "annotate"`),
		chromedp.Click(page+` [data-form="annotate"]`), chromedp.Click(page+" form .primary"))
	require.Contains(t, text(t, ctx, page+" > .problem"), "a few words")
	run(chromedp.SendKeys(page+" textarea", "rolled back at 10:40"), chromedp.Click(page+" form .primary"),
		poll(`document.querySelector("#incidents .incident.bad .notes")?.innerText.includes("rolled back at 10:40")`),
		chromedp.Click(page+` [data-form="mute"]`), chromedp.SendKeys(page+" textarea", "load test"),
		choose(`#incidents .incident.bad .choices label:nth-child(1) select`, "org_42/*"),
		choose(`#incidents .incident.bad .choices label:nth-child(2) select`, "240"), picture(t, "muting"),
		chromedp.Click(page+" form .primary"), poll(`document.querySelectorAll("#mutes .mute").length === 2`))
	require.Contains(t, text(t, ctx, "#mutes"), "load test")
	run(chromedp.Click(page+` [data-form="step"]`), choose(`#incidents .incident.bad .choices select`, "rerun_step T+2"), chromedp.Click(page+" form .primary"),
		poll(`document.querySelector("#incidents .incident.bad form").hidden`),
		chromedp.Click(group+` [data-form="split"]`), chromedp.SendKeys(group+" textarea", "its own prompt"), picture(t, "splitting"), chromedp.Click(group+" form .primary"),
		poll(`document.querySelector("#incidents .incident:first-child form").hidden`),
		chromedp.Click(chromedp.CSS(`#mutes .mute:last-child button`)), poll(`document.querySelectorAll("#mutes .mute").length === 1`))
	first := w.incidents[0].ID
	require.Equal(t, []console.Order{
		{Do: "acknowledge", ID: first, Who: "Dana"},
		{Do: "annotate", ID: first, Who: "Dana", Reason: "rolled back at 10:40"},
		{Do: "mute", ID: "org_42/*", Minutes: 240, Who: "Dana", Reason: "load test"},
		{Do: "rerun_step", ID: first, Step: "T+2", Who: "Dana"},
		{Do: "split", ID: w.groups[0].ID, Key: "tenant-0/gemini-1.5-pro", Who: "Dana", Reason: "its own prompt"},
		{Do: "unmute", ID: "org_42/*", Who: "Dana"},
	}, w.ordered())
	nameless, err := chromedp.Run(ctx, chromedp.Evaluate[int](`[...document.querySelectorAll("button, select, textarea, input")].filter((e) => e.checkVisibility() && !e.innerText && !e.labels?.length && !e.ariaLabel).length`))
	require.NoError(t, err)
	require.Zero(t, nameless, "controls without a name for a screen reader")
	require.Empty(t, complaints())

	// Temporal is still building: the inbox says so, the figures go on.
	w.change(func() {
		w.status.Components[2] = console.Component{Name: "temporal", State: "building", Progress: 0.42, Detail: "compiling go.temporal.io/server/service/history"}
		w.err = console.ErrAway
	})
	run(chromedp.WaitVisible(chromedp.CSS("#inbox .away")), picture(t, "building"))
	require.Contains(t, text(t, ctx, "#inbox"), "building 42 %")

	// Flyball itself is gone: the page says so and recovers by itself.
	w.change(func() { w.err = nil })
	server.CloseClientConnections()
	address := server.Listener.Addr().String()
	server.Close()
	run(chromedp.WaitVisible(chromedp.CSS(".link.lost")))
	back := httptest.NewUnstartedServer(w.handler(t))
	back.Listener = listen(t, address, back.Listener)
	back.Start()
	defer back.Close()
	run(chromedp.WaitVisible(chromedp.CSS(".link:not(.lost)")))
}

// listen takes the address over from the server that left it, in place of the unused listener.
func listen(t *testing.T, address string, unused net.Listener) net.Listener {
	require.NoError(t, unused.Close())
	var l net.Listener
	require.Eventually(t, func() bool {
		var err error
		l, err = net.Listen("tcp", address)
		return err == nil
	}, 10*time.Second, 10*time.Millisecond)
	return l
}
