//! XML as a stream of elements, within limits on all that a document can be large in. Documents of
//! repositories have no DTD, so there are no entities but the five and the numbered ones, and nothing
//! to expand.

use quick_xml::{
    Reader, XmlVersion,
    escape::resolve_predefined_entity,
    events::{BytesStart, Event},
};
use std::{
    cell::Cell,
    io::{self, BufReader, Read},
};

/// Bytes that are asked for at a time.
const BUFFER: usize = 128 << 10;
/// Most bytes of one tag, comment or piece of text; descriptions of packages are far below.
const MAX_EVENT: u64 = 4 << 20;
/// Most elements within each other; repositories have five.
const MAX_DEPTH: usize = 16;
/// Most attributes of an element.
const MAX_ATTRIBUTES: usize = 64;
/// Most bytes of text that are kept. What is read is shorter, and refused if not, see [`short`].
const MAX_TEXT: usize = 16 << 10;
/// Longest value of any kind.
const MAX_VALUE: usize = 4 << 10;

/// Why a document is refused.
#[derive(Debug, thiserror::Error)]
pub enum XmlError {
    /// It cannot be read or decompressed.
    #[error("the document cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Longer than allowed.
    #[error("the document has more than {0} bytes")]
    TooLong(u64),
    /// Not XML.
    #[error("the document is not well-formed: {0}")]
    Syntax(String),
    /// One piece of it is longer than anything in a repository.
    #[error("the document has a tag or text of more than {max} bytes", max = MAX_EVENT)]
    Event,
    /// Too many elements within each other.
    #[error("the document has more than {max} elements within each other", max = MAX_DEPTH)]
    Depth,
    /// Too many attributes.
    #[error("the document has an element with more than {max} attributes", max = MAX_ATTRIBUTES)]
    Attributes,
    /// It brings its own grammar.
    #[error("the document has a DTD, which is not accepted")]
    Dtd,
    /// A value that is longer than any.
    #[error("the document has a value of more than {max} bytes", max = MAX_VALUE)]
    Value,
}

impl From<quick_xml::Error> for XmlError {
    fn from(error: quick_xml::Error) -> Self {
        match error {
            quick_xml::Error::Io(error) => {
                Self::Read(io::Error::new(error.kind(), error.to_string()))
            }
            error => Self::Syntax(error.to_string()),
        }
    }
}

/// Is told of elements. A path is the names from the root to the element without their prefixes,
/// `metadata/package/name`.
pub(super) trait Visitor {
    /// What else may go wrong.
    type Error: From<XmlError>;

    /// An element begins. The result says whether its text is wanted.
    fn open(&mut self, path: &str, element: &Element<'_>) -> Result<bool, Self::Error>;

    /// It ends; `text` is what stands in it before its first child, if it was wanted.
    fn close(&mut self, path: &str, text: &str) -> Result<(), Self::Error>;
}

/// The attributes of an element.
pub(super) struct Element<'a>(&'a BytesStart<'a>);

impl Element<'_> {
    /// The value of an attribute by its full name, `xml:base`.
    pub(super) fn attribute(&self, name: &str) -> Result<Option<String>, XmlError> {
        for (count, attribute) in self.0.attributes().with_checks(false).enumerate() {
            let attribute = attribute.map_err(|error| XmlError::Syntax(error.to_string()))?;
            if count == MAX_ATTRIBUTES {
                return Err(XmlError::Attributes);
            }
            if attribute.key.as_ref() == name {
                if attribute.value.len() > MAX_VALUE {
                    return Err(XmlError::Value);
                }
                let value = attribute.normalized_value(XmlVersion::Implicit1_0);
                return value.map(|value| Some(value.into_owned())).map_err(XmlError::from);
            }
        }
        Ok(None)
    }
}

/// A text without the space around it, if it has the length of a value.
pub(super) fn short(text: &str) -> Result<&str, XmlError> {
    let text = text.trim();
    if text.len() > MAX_VALUE { Err(XmlError::Value) } else { Ok(text) }
}

/// Tells the visitor of all elements of a document of at most `max` bytes.
pub(super) fn walk<V: Visitor>(
    reader: impl Read,
    max: u64,
    visitor: &mut V,
) -> Result<(), V::Error> {
    let meter = Meter { total: Cell::new(0), event: Cell::new(0), max };
    let reader = BufReader::with_capacity(BUFFER, Metered { reader, meter: &meter });
    let walked = walk_metered(Reader::from_reader(reader), &meter, visitor);
    // The library reports what the meter says as a failure to read.
    if meter.total.get() > max {
        return Err(XmlError::TooLong(max).into());
    }
    if meter.event.get() > MAX_EVENT {
        return Err(XmlError::Event.into());
    }
    walked
}

fn walk_metered<V: Visitor>(
    mut reader: Reader<BufReader<Metered<'_, impl Read>>>,
    meter: &Meter,
    visitor: &mut V,
) -> Result<(), V::Error> {
    let mut buffer = Vec::new();
    let mut path = Path::default();
    let (mut text, mut wanted) = (String::new(), false);
    loop {
        buffer.clear();
        meter.event.set(0);
        let event = reader.read_event_into(&mut buffer).map_err(XmlError::from)?;
        let piece = match &event {
            Event::Start(element) => {
                path.push(element.local_name().as_ref())?;
                text.clear();
                wanted = visitor.open(&path.names, &Element(element))?;
                continue;
            }
            Event::Empty(element) => {
                path.push(element.local_name().as_ref())?;
                text.clear();
                wanted = false;
                visitor.open(&path.names, &Element(element))?;
                visitor.close(&path.names, "")?;
                path.pop();
                continue;
            }
            Event::End(_) => {
                visitor.close(&path.names, &text)?;
                path.pop();
                text.clear();
                wanted = false;
                continue;
            }
            Event::Text(piece) if wanted => piece.xml10_content(),
            Event::CData(piece) if wanted => piece.xml10_content(),
            Event::GeneralRef(reference) if wanted => {
                let named = resolve_predefined_entity(reference).map(str::to_owned);
                let numbered = reference.resolve_char_ref().map_err(XmlError::from)?;
                let unknown = || XmlError::Syntax(format!("an unknown entity &{};", &**reference));
                named.or_else(|| numbered.map(String::from)).ok_or_else(unknown)?.into()
            }
            Event::DocType(_) => return Err(XmlError::Dtd.into()),
            Event::Eof if path.ends.is_empty() => return Ok(()),
            Event::Eof => return Err(XmlError::Syntax("it ends in an element".to_owned()).into()),
            _ => continue,
        };
        if text.len() + piece.len() <= MAX_TEXT {
            text.push_str(&piece);
        } else {
            // Longer than a value may be, whatever follows.
            text.extend(std::iter::repeat_n('~', MAX_TEXT - text.len()));
        }
    }
}

/// The names of open elements.
#[derive(Default)]
struct Path {
    names: String,
    /// Where each name begins, with the slash before it.
    ends: Vec<usize>,
}

impl Path {
    fn push(&mut self, name: &str) -> Result<(), XmlError> {
        if self.ends.len() == MAX_DEPTH {
            return Err(XmlError::Depth);
        }
        if name.len() > MAX_VALUE {
            return Err(XmlError::Value);
        }
        self.ends.push(self.names.len());
        if self.ends.len() > 1 {
            self.names.push('/');
        }
        self.names.push_str(name);
        Ok(())
    }

    fn pop(&mut self) {
        self.names.truncate(self.ends.pop().unwrap_or(0));
    }
}

/// Bytes read of the document, and since the last event.
struct Meter {
    total: Cell<u64>,
    event: Cell<u64>,
    max: u64,
}

struct Metered<'a, R> {
    reader: R,
    meter: &'a Meter,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(out)?;
        let Meter { total, event, max } = self.meter;
        total.set(total.get() + read as u64);
        event.set(event.get() + read as u64);
        if total.get() > *max || event.get() > MAX_EVENT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(read)
    }
}
