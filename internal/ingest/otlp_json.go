package ingest

import (
	"encoding/hex"
	"math"
	"net/http"
	"strconv"

	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

// This file reads OTLP's JSON form into the official types. protojson would not do: OTLP writes ids in hex
// where it reads base64, and asks that unknown names be passed over.

func (o *otlp) jsonTraces() error {
	return o.jsonEnvelope("resourceSpans", "scopeSpans", "spans", func() error {
		return o.takeSpan(func() error { return o.whole(func() error { return o.jsonSpan(&o.p) }) })
	})
}

func (o *otlp) jsonLogs() error {
	return o.jsonEnvelope("resourceLogs", "scopeLogs", "logRecords", func() error {
		return o.takeLogRecord(func() error { return o.whole(func() error { return o.jsonLogRecord(&o.r) }) })
	})
}

// whole reads one record or resource, and moves behind it too when something in it is wrong.
func (o *otlp) whole(read func() error) error {
	start := o.pos
	err := read()
	if err == nil {
		return nil
	}
	o.pos = start
	if _, err := o.skip(); err != nil {
		return err
	}
	return err
}

// jsonEnvelope reads an export request, in which traces and logs are nested alike.
func (o *otlp) jsonEnvelope(resources, scopes, records string, record func() error) error {
	o.space()
	if o.pos == len(o.decoder.text) {
		return refuseAll(http.StatusBadRequest, "it is empty")
	}
	err := o.message(func(name []byte) error {
		if string(name) != resources {
			return o.other()
		}
		return o.list(func() error { return o.jsonResource(scopes, records, record) })
	})
	o.space()
	if err == nil && o.pos < len(o.decoder.text) {
		err = o.syntax("there is more behind the request")
	}
	return err
}

// jsonResource reads one resource with its records. Where the records come first they are read second.
func (o *otlp) jsonResource(scopes, records string, record func() error) error {
	o.beginResource()
	seen, later := false, -1 // where the scopes stand that came first
	err := o.message(func(name []byte) error {
		switch string(name) {
		case "resource":
			seen = true
			return o.takeResource(func() error { return o.whole(o.jsonResourceAttributes) })
		case scopes:
			if seen {
				return o.jsonScopes(records, record)
			}
			later = o.pos
		}
		return o.other()
	})
	if err != nil || later < 0 {
		return err
	}
	end := o.pos
	o.pos = later
	if err := o.jsonScopes(records, record); err != nil {
		return err
	}
	o.pos = end
	return nil
}

func (o *otlp) jsonResourceAttributes() error {
	return o.message(func(name []byte) error {
		if string(name) != "attributes" {
			return o.other()
		}
		return o.jsonAttributes(&o.resourceAttributes)
	})
}

func (o *otlp) jsonScopes(records string, record func() error) error {
	return o.list(func() error {
		return o.message(func(name []byte) error {
			if string(name) != records {
				return o.other()
			}
			return o.list(record)
		})
	})
}

// message reads an object, or a null, which is an empty one.
func (o *otlp) message(field func(name []byte) error) error {
	if o.null() {
		return nil
	}
	return o.object(field)
}

func (o *otlp) list(each func() error) error {
	if o.null() {
		return nil
	}
	return o.array(each)
}

// other passes over a value that means nothing here.
func (o *otlp) other() error {
	_, err := o.skip()
	return err
}

func (o *otlp) jsonSpan(p *tracepb.Span) error {
	return o.message(func(name []byte) error {
		switch string(name) {
		case "traceId":
			return o.hex(&p.TraceId)
		case "spanId":
			return o.hex(&p.SpanId)
		case "startTimeUnixNano":
			return o.nanos(&p.StartTimeUnixNano)
		case "endTimeUnixNano":
			return o.nanos(&p.EndTimeUnixNano)
		case "attributes":
			return o.jsonAttributes(&o.attributes)
		case "events":
			return o.list(func() error { return o.jsonEvent() })
		case "status":
			return o.message(func(name []byte) error {
				if string(name) != "code" {
					return o.other()
				}
				return o.statusCode()
			})
		}
		return o.other()
	})
}

// statusCode reads an enum, which OTLP writes as a number and protojson by name.
func (o *otlp) statusCode() error {
	if o.peek() == '"' {
		text, err := o.bytes()
		if string(text) == tracepb.Status_STATUS_CODE_ERROR.String() {
			o.status.Code = tracepb.Status_STATUS_CODE_ERROR
		}
		return err
	}
	code, err := o.integer(math.MaxInt32)
	o.status.Code = tracepb.Status_StatusCode(code)
	return err
}

// jsonEvent reads an evaluation among a span's events; the others are passed over.
func (o *otlp) jsonEvent() error {
	start, named, event := o.pos, false, ""
	err := o.message(func(name []byte) error {
		if string(name) != "name" || o.peek() != '"' {
			return o.other()
		}
		text, err := o.bytes()
		if named = string(text) == evaluationEvent; !named && o.texts.wanted {
			event = o.share(text[:min(len(text), maxName)])
		}
		return err
	})
	if err == nil && saysText(event) {
		o.pos = start
		return o.message(func(name []byte) error {
			if string(name) != "attributes" {
				return o.other()
			}
			return o.list(func() error { return o.jsonAttribute(&attributeList{pool: &slots{}}, event) })
		})
	}
	if err != nil || !named {
		return err
	}
	e, err := o.newEvent()
	if err != nil {
		return err
	}
	o.pos = start
	list := attributeList{pool: o.attributes.pool}
	err = o.message(func(name []byte) error {
		switch string(name) {
		case "timeUnixNano":
			return o.nanos(&e.TimeUnixNano)
		case "attributes":
			return o.jsonAttributes(&list)
		}
		return o.other()
	})
	e.Attributes = list.all
	return err
}

func (o *otlp) jsonLogRecord(r *logspb.LogRecord) error {
	return o.message(func(name []byte) error {
		switch string(name) {
		case "traceId":
			return o.hex(&r.TraceId)
		case "spanId":
			return o.hex(&r.SpanId)
		case "timeUnixNano":
			return o.nanos(&r.TimeUnixNano)
		case "observedTimeUnixNano":
			return o.nanos(&r.ObservedTimeUnixNano)
		case "eventName":
			return o.name(&r.EventName)
		case "attributes":
			return o.jsonAttributes(&o.attributes)
		}
		return o.other()
	})
}

func (o *otlp) jsonAttributes(list *attributeList) error {
	return o.list(func() error { return o.jsonAttribute(list, "") })
}

// jsonAttribute reads one attribute. Its value is read when its name is known to mean something, and so may
// come before it. An attribute that means nothing else may be a text of the call.
func (o *otlp) jsonAttribute(list *attributeList, event string) error {
	var a knownAttribute
	var key string
	wanted, value, valueEnd := false, -1, -1
	err := o.message(func(name []byte) error {
		switch string(name) {
		case "key":
			if o.peek() != '"' {
				return o.expected("a string")
			}
			text, err := o.bytes()
			if err == nil {
				if a, wanted = o.attributeOf(text); !wanted && o.texts.wanted {
					key = string(text)
				}
			}
			return err
		case "value":
			value = o.pos
			err := o.other()
			valueEnd = o.pos
			return err
		}
		return o.other()
	})
	if err == nil && key != "" && value >= 0 {
		o.hear([]byte(key), event, formOTLP, o.decoder.text[value:valueEnd])
	}
	if err != nil || !wanted {
		return err
	}
	s, err := list.add(a.name)
	if err != nil || value < 0 {
		return err
	}
	end := o.pos
	o.pos = value
	if err := o.jsonValue(a, s); err != nil {
		return inField([]byte(`"`+a.name+`"`), err)
	}
	o.pos = end
	return nil
}

func (o *otlp) jsonValue(a knownAttribute, s *slot) error {
	return o.message(func(kind []byte) error {
		switch string(kind) {
		case "stringValue":
			if o.null() {
				return nil
			}
			if o.peek() != '"' {
				return o.expected("a string")
			}
			text, err := o.bytes()
			if err == nil {
				s.setText(o.valueOf(a, text))
			}
			return err
		case "intValue":
			text, err := o.digits()
			if err != nil || text == nil {
				return err
			}
			n, err := strconv.ParseInt(string(text), 10, 64)
			if err != nil {
				return wrong("must be a whole number (%.32s)", text)
			}
			s.setInt(n)
			return nil
		case "doubleValue":
			text, err := o.digits()
			if err != nil || text == nil {
				return err
			}
			d, err := strconv.ParseFloat(string(text), 64)
			if err != nil {
				return wrong("must be a number (%.32s)", text)
			}
			s.setDouble(d)
			return nil
		case "boolValue":
			b := o.peek() == 't'
			s.setBool(b)
		case "arrayValue", "kvlistValue", "bytesValue":
			s.setOther()
		}
		return o.other()
	})
}

// digits reads the text of a number, which a string may hold too; nil for a null.
func (o *otlp) digits() ([]byte, error) {
	switch {
	case o.null():
		return nil, nil
	case o.peek() == '"':
		return o.bytes()
	case o.isNumber():
		return o.number()
	}
	return nil, o.expected("a number")
}

func (o *otlp) nanos(into *uint64) error {
	text, err := o.digits()
	if err != nil || text == nil {
		return err
	}
	if *into, err = strconv.ParseUint(string(text), 10, 64); err != nil {
		return wrong("must be nanoseconds since 1970 (%.32s)", text)
	}
	return nil
}

// hex reads an id.
func (o *otlp) hex(into *[]byte) error {
	if o.null() {
		return nil
	}
	if o.peek() != '"' {
		return o.expected("an id in hex")
	}
	text, err := o.bytes()
	if err != nil {
		return err
	}
	id, err := hex.AppendDecode(make([]byte, 0, 16), text[:min(len(text), 66)]) // more than any id has
	if err != nil {
		return wrong("must be an id in hex (%.40q)", text)
	}
	*into = id
	return nil
}
