package notify

import (
	"fmt"
	"math"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// What a tenant, a model or a template is called comes from telemetry, and so from anybody. Everything
// here makes such words inert: they are shown as they are, call nobody and lead nowhere.

// escapes are the three characters that Slack reads as the start of a mention, a link or an entity.
var escapes = map[rune]string{'&': "&amp;", '<': "&lt;", '>': "&gt;"}

// escape makes s inert in Slack's markup and at most limit characters long as it is sent.
func escape(s string, limit int) string {
	var out strings.Builder
	length := 0
	for _, r := range s {
		if hidden(r) {
			continue
		}
		piece, special := escapes[r]
		if !special {
			piece = string(r)
		}
		width := len([]rune(piece))
		if length+width > limit-1 { // the last place is for the ellipsis
			return strings.TrimRight(out.String(), " ") + "…"
		}
		out.WriteString(piece)
		length += width
	}
	return out.String()
}

// hidden reports whether a rune is not seen, but changes how others are: controls and the marks that turn
// the direction of writing.
func hidden(r rune) bool {
	return r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) || r == unicode.ReplacementChar
}

// oneLine is s, escaped, on one line.
func oneLine(s string, limit int) string { return escape(strings.Join(strings.Fields(s), " "), limit) }

// plain is s on one line for text that Slack does not read as markup: there an entity would be shown.
func plain(s string, limit int) string {
	shown := []rune(strings.Map(func(r rune) rune {
		if hidden(r) {
			return -1
		}
		return r
	}, strings.Join(strings.Fields(s), " ")))
	if len(shown) > limit {
		return strings.TrimRight(string(shown[:limit-1]), " ") + "…"
	}
	return string(shown)
}

// code shows s as code.
func code(s string, limit int) string {
	return "`" + strings.ReplaceAll(oneLine(s, limit-2), "`", "ʼ") + "`"
}

// link is a link that we made ourselves; the text alone where there is no address.
func link(address, text string) string {
	if !strings.HasPrefix(address, "https://") && !strings.HasPrefix(address, "http://") || strings.ContainsAny(address, "<>| \n") {
		return text
	}
	return "<" + strings.ReplaceAll(address, "&", "&amp;") + "|" + text + ">"
}

// when is a time in the reader's own time zone, and in UTC where that cannot be shown.
func when(at time.Time) string {
	if at.IsZero() {
		return "–"
	}
	return fmt.Sprintf("<!date^%d^{time}|%s UTC>", at.Unix(), at.UTC().Format("15:04"))
}

// ended is s on one line with one full stop, escaped.
func ended(s string, limit int) string {
	s = strings.TrimRight(strings.TrimSpace(s), ". ")
	if s == "" {
		return ""
	}
	return oneLine(s, limit-1) + "."
}

// sentence also gives it a capital.
func sentence(s string, limit int) string { return ended(upper(strings.TrimSpace(s)), limit) }

// words are a status or an action as people say it.
func words[S ~string](s S) string { return strings.ReplaceAll(string(s), "_", " ") }

// headline names an act: "downgrade to claude-3-sonnet", "rollback of the search service".
func headline(action, value string) string {
	switch {
	case value == "":
		return words(action)
	case action == contract.RollBack: // whose value is the service
		return words(action) + " of " + value
	}
	return words(action) + " to " + value
}

// dollars writes an amount that is only shown, to three significant digits.
func dollars(amount float64) string {
	if amount <= 0 || math.IsInf(amount, 0) || math.IsNaN(amount) {
		return "$0"
	}
	unit := math.Pow(10, math.Floor(math.Log10(amount))-2)
	return "$" + pricing.Format(usage.PicoUSD(math.Round(math.Round(amount/unit)*unit*1e12)))
}

var (
	markdownBold    = regexp.MustCompile(`\*\*([^*\n]+)\*\*`)
	markdownHeading = regexp.MustCompile(`^#{1,6}\s+(.*)$`)
	markdownBullet  = regexp.MustCompile(`^(\s*)[-*]\s+`)
	markdownLink    = regexp.MustCompile(`\[([^\]\n]*)\]\((https?://[^\s()|]+)\)`)
	markdownRule    = regexp.MustCompile(`^\|[\s:|-]+\|$`)
)

// fromMarkdown is a Markdown text in Slack's markup, escaped. Tables are shown as they are written, in a
// fixed width; a link shows where it leads, since its words may not be ours.
func fromMarkdown(text string) string {
	var out []string
	fence, table := false, false
	for line := range strings.Lines(text) {
		line = escape(strings.TrimRight(line, "\n\r \t"), 2000)
		switch isRow := strings.HasPrefix(line, "|"); {
		case !fence && isRow != table:
			out, table = append(out, "```"), isRow
		}
		switch {
		case strings.HasPrefix(line, "```"):
			fence, line = !fence, "```"
		case fence:
		case table:
			if markdownRule.MatchString(line) {
				continue
			}
		default:
			if heading := markdownHeading.FindStringSubmatch(line); heading != nil {
				line = "*" + strings.ReplaceAll(heading[1], "*", "") + "*"
			}
			line = markdownBullet.ReplaceAllString(line, "$1• ")
			line = markdownBold.ReplaceAllString(line, "*$1*")
			line = markdownLink.ReplaceAllString(line, "$1 (<$2>)")
		}
		out = append(out, line)
	}
	if fence || table {
		out = append(out, "```")
	}
	return strings.TrimSpace(strings.Join(out, "\n"))
}

// pieces cuts a text at its line ends into parts of at most limit characters, at most most of them. A part
// that ends within code ends it, and the next begins it again.
func pieces(text string, limit, most int) (parts []string, cut bool) {
	const mark = "```"
	room := limit - 2*len(mark) - 2
	var part strings.Builder
	length, inCode := 0, false
	flush := func() {
		if inCode {
			part.WriteString(mark)
		}
		if s := strings.TrimSpace(part.String()); s != "" && s != mark+mark {
			parts = append(parts, s)
		}
		part.Reset()
		length = 0
		if inCode {
			part.WriteString(mark + "\n")
		}
	}
	for line := range strings.Lines(text) {
		if n := len([]rune(line)); length+n > room {
			flush()
		}
		if len(parts) == most {
			return parts, true
		}
		part.WriteString(line)
		length += len([]rune(line))
		if strings.HasPrefix(line, mark) {
			inCode = !inCode
		}
	}
	flush()
	if len(parts) > most {
		return parts[:most], true
	}
	return parts, false
}
