package ingest

import (
	"errors"
	"math"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
)

// This file reads OTLP's binary form into the official types, one record at a time. proto.Unmarshal would
// read a whole request at once, make some 70 objects a span, most of them of attributes that nobody looks at,
// and hold up to forty times the body in memory when a sender means harm; docs/performance.md has the
// figures. Here a record that is broken is refused alone, and one record's objects serve all. Tests hold it
// against proto.Unmarshal.

// errWire says that bytes are not protobuf.
var errWire = errors.New("not the protobuf message that it should be")

// eachField walks the fields of a message. Value is set for length-delimited fields, number for the others.
func eachField(b []byte, field func(num protowire.Number, kind protowire.Type, value []byte, number uint64) error) error {
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errWire
		}
		b = b[n:]
		var value []byte
		var number uint64
		switch kind {
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			number, n = protowire.ConsumeFixed64(b)
		default:
			n = protowire.ConsumeFieldValue(num, kind, b)
		}
		if n < 0 {
			return errWire
		}
		b = b[n:]
		if err := field(num, kind, value, number); err != nil {
			return err
		}
	}
	return nil
}

// eachMessage walks the submessages that a message has as one field.
func eachMessage(b []byte, wanted protowire.Number, each func(b []byte) error) error {
	return eachField(b, func(num protowire.Number, kind protowire.Type, value []byte, _ uint64) error {
		if num != wanted || kind != protowire.BytesType {
			return nil
		}
		return each(value)
	})
}

// wireEnvelope reads an export request. Traces and logs are nested alike: resources (1) have a resource (1)
// and scopes (2), which have records (2).
func (o *otlp) wireEnvelope(body []byte, record func(b []byte) error) error {
	return eachMessage(body, 1, func(b []byte) error {
		o.beginResource()
		err := o.takeResource(func() error {
			return eachMessage(b, 1, func(b []byte) error {
				return eachMessage(b, 1, func(b []byte) error { return o.wireAttribute(b, &o.resourceAttributes) })
			})
		})
		if err != nil {
			return err
		}
		return eachMessage(b, 2, func(b []byte) error { return eachMessage(b, 2, record) })
	})
}

// wireSpan reads a span into p, as far as it matters here.
func (o *otlp) wireSpan(b []byte, p *tracepb.Span) error {
	return eachField(b, func(num protowire.Number, kind protowire.Type, value []byte, number uint64) error {
		switch {
		case num == 9 && kind == protowire.BytesType:
			return o.wireAttribute(value, &o.attributes)
		case num == 1 && kind == protowire.BytesType:
			p.TraceId = value
		case num == 2 && kind == protowire.BytesType:
			p.SpanId = value
		case num == 7 && kind == protowire.Fixed64Type:
			p.StartTimeUnixNano = number
		case num == 8 && kind == protowire.Fixed64Type:
			p.EndTimeUnixNano = number
		case num == 11 && kind == protowire.BytesType:
			return o.wireEvent(value)
		case num == 15 && kind == protowire.BytesType:
			return eachField(value, func(num protowire.Number, kind protowire.Type, _ []byte, number uint64) error {
				if num == 3 && kind == protowire.VarintType {
					o.status.Code = tracepb.Status_StatusCode(number)
				}
				return nil
			})
		}
		return nil
	})
}

// wireEvent reads an evaluation among a span's events; the others are passed over.
func (o *otlp) wireEvent(b []byte) error {
	named, event := false, ""
	err := eachField(b, func(num protowire.Number, kind protowire.Type, value []byte, _ uint64) error {
		if num == 2 && kind == protowire.BytesType {
			if named = string(value) == evaluationEvent; !named && o.texts.wanted {
				event = o.share(value[:min(len(value), maxName)])
			}
		}
		return nil
	})
	if err == nil && saysText(event) {
		return eachMessage(b, 3, func(b []byte) error { return o.wireText(b, event) })
	}
	if err != nil || !named {
		return err
	}
	e, err := o.newEvent()
	if err != nil {
		return err
	}
	list := attributeList{pool: o.attributes.pool}
	err = eachField(b, func(num protowire.Number, kind protowire.Type, value []byte, number uint64) error {
		switch {
		case num == 1 && kind == protowire.Fixed64Type:
			e.TimeUnixNano = number
		case num == 3 && kind == protowire.BytesType:
			return o.wireAttribute(value, &list)
		}
		return nil
	})
	e.Attributes = list.all
	return err
}

// wireLogRecord reads a log record into r, as far as it matters here.
func (o *otlp) wireLogRecord(b []byte, r *logspb.LogRecord) error {
	return eachField(b, func(num protowire.Number, kind protowire.Type, value []byte, number uint64) error {
		switch {
		case num == 6 && kind == protowire.BytesType:
			return o.wireAttribute(value, &o.attributes)
		case num == 9 && kind == protowire.BytesType:
			r.TraceId = value
		case num == 10 && kind == protowire.BytesType:
			r.SpanId = value
		case num == 1 && kind == protowire.Fixed64Type:
			r.TimeUnixNano = number
		case num == 11 && kind == protowire.Fixed64Type:
			r.ObservedTimeUnixNano = number
		case num == 12 && kind == protowire.BytesType:
			r.EventName = o.share(value)
		}
		return nil
	})
}

// wireAttribute reads one attribute, if its name means something here.
func (o *otlp) wireAttribute(b []byte, list *attributeList) error {
	var name, value []byte
	err := eachField(b, func(num protowire.Number, kind protowire.Type, v []byte, _ uint64) error {
		switch {
		case num == 1 && kind == protowire.BytesType:
			name = v
		case num == 2 && kind == protowire.BytesType:
			value = v
		}
		return nil
	})
	if err != nil {
		return err
	}
	a, ok := o.attributeOf(name)
	if !ok {
		if o.texts.wanted {
			o.hear(name, "", formWire, value)
		}
		return nil
	}
	s, err := list.add(a.name)
	if err != nil {
		return err
	}
	return eachField(value, func(num protowire.Number, kind protowire.Type, v []byte, number uint64) error {
		switch {
		case num == 1 && kind == protowire.BytesType:
			s.setText(o.valueOf(a, v))
		case num == 2 && kind == protowire.VarintType:
			s.setBool(number != 0)
		case num == 3 && kind == protowire.VarintType:
			s.setInt(int64(number))
		case num == 4 && kind == protowire.Fixed64Type:
			s.setDouble(math.Float64frombits(number))
		case num >= 5 && num <= 7 && kind == protowire.BytesType:
			s.setOther()
		}
		return nil
	})
}

// wireText reads an attribute of an event for a text.
func (o *otlp) wireText(b []byte, event string) error {
	var name, value []byte
	err := eachField(b, func(num protowire.Number, kind protowire.Type, v []byte, _ uint64) error {
		switch {
		case num == 1 && kind == protowire.BytesType:
			name = v
		case num == 2 && kind == protowire.BytesType:
			value = v
		}
		return nil
	})
	if err == nil {
		o.hear(name, event, formWire, value)
	}
	return err
}

// valueOf makes a string of an attribute's value; one copy serves all records that share it.
func (o *otlp) valueOf(a knownAttribute, v []byte) string {
	if a.unique || len(v) > maxName {
		return string(v)
	}
	return o.share(v)
}

// maxAttributes bounds the attributes of one record that mean something here.
const maxAttributes = 512

// slot is an attribute in the official types with room for any value, used again from record to record.
type slot struct {
	kv     commonpb.KeyValue
	value  commonpb.AnyValue
	text   commonpb.AnyValue_StringValue
	int    commonpb.AnyValue_IntValue
	double commonpb.AnyValue_DoubleValue
	bool   commonpb.AnyValue_BoolValue
}

func (s *slot) setText(v string)    { s.text.StringValue = v; s.value.Value = &s.text }
func (s *slot) setInt(v int64)      { s.int.IntValue = v; s.value.Value = &s.int }
func (s *slot) setDouble(v float64) { s.double.DoubleValue = v; s.value.Value = &s.double }
func (s *slot) setBool(v bool)      { s.bool.BoolValue = v; s.value.Value = &s.bool }
func (s *slot) setOther()           { s.value.Value = otherValue }

// otherValue stands for lists, maps and bytes, which no attribute that counts here may be.
var otherValue = &commonpb.AnyValue_ArrayValue{}

// slots are the attributes of one record, its events included.
type slots struct {
	all  []*slot
	used int
}

// attributeList is the attributes of a span, an event, a log record or a resource.
type attributeList struct {
	all  []*commonpb.KeyValue
	pool *slots
}

func (l *attributeList) reset() {
	l.all, l.pool.used = l.all[:0], 0
}

// add appends an attribute without a value.
func (l *attributeList) add(name string) (*slot, error) {
	if l.pool.used == maxAttributes {
		return nil, wrongField("attributes", "at most %d that count here", maxAttributes)
	}
	if l.pool.used == len(l.pool.all) {
		l.pool.all = append(l.pool.all, &slot{})
	}
	s := l.pool.all[l.pool.used]
	l.pool.used++
	s.value.Value = nil
	s.kv.Key, s.kv.Value = name, &s.value
	l.all = append(l.all, &s.kv)
	return s, nil
}
