//! The text form of LVM2's metadata: sections, numbers, strings and lists.
//!
//! Nothing is copied and nothing recurses: the document is a flat list of nodes that point into the text.

/// A volume takes about twenty nodes.
const NODES_MAX: usize = 65_536;
/// The tools nest four deep.
const DEPTH_MAX: usize = 8;

/// Why a text is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not of the form, or says something twice.
    Malformed,
    /// It has more than is looked at.
    TooLong,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'t> {
    Number(i64),
    /// As it stands between the quotes, with the backslashes.
    Text(&'t [u8]),
    /// Its items are the nodes from the next one to this one.
    List(usize),
    /// Likewise its entries.
    Section(usize),
}

/// Items of lists have no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Node<'t> {
    key: &'t [u8],
    value: Value<'t>,
}

/// A text that was read.
#[derive(Debug)]
pub(crate) struct Document<'t> {
    nodes: Vec<Node<'t>>,
}

/// One item of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item<'t> {
    Number(i64),
    Text(&'t [u8]),
}

/// The entries between two braces, or all of the text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section<'d, 't> {
    nodes: &'d [Node<'t>],
    start: usize,
    end: usize,
}

/// What an entry holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry<'d, 't> {
    Number(i64),
    Text(&'t [u8]),
    List(Section<'d, 't>),
    Section(Section<'d, 't>),
}

impl<'t> Document<'t> {
    /// Reads a text; zeros at its end do not belong to it.
    pub(crate) fn parse(text: &'t [u8]) -> Result<Self, Fault> {
        let length = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let mut parser = Parser { text: &text[..length], place: 0, nodes: Vec::new(), open: Vec::new() };
        parser.run()?;
        Ok(Self { nodes: parser.nodes })
    }

    /// All of the text.
    pub(crate) fn root(&self) -> Section<'_, 't> {
        Section { nodes: &self.nodes, start: 0, end: self.nodes.len() }
    }
}

impl<'d, 't> Section<'d, 't> {
    /// Names and what they stand for, in the order of the text.
    pub(crate) fn entries(self) -> impl Iterator<Item = (&'t [u8], Entry<'d, 't>)> {
        let mut place = self.start;
        std::iter::from_fn(move || {
            let node = (place < self.end).then(|| self.nodes[place])?;
            let inner = |end| Section { nodes: self.nodes, start: place + 1, end };
            let (entry, next) = match node.value {
                Value::Number(number) => (Entry::Number(number), place + 1),
                Value::Text(text) => (Entry::Text(text), place + 1),
                Value::List(end) => (Entry::List(inner(end)), end),
                Value::Section(end) => (Entry::Section(inner(end)), end),
            };
            place = next;
            Some((node.key, entry))
        })
    }

    /// What `key` stands for.
    pub(crate) fn get(self, key: &str) -> Option<Entry<'d, 't>> {
        self.entries().find(|(name, _)| *name == key.as_bytes()).map(|(_, entry)| entry)
    }

    /// A number that is not negative.
    pub(crate) fn number(self, key: &str) -> Option<u64> {
        match self.get(key)? {
            Entry::Number(number) => u64::try_from(number).ok(),
            _ => None,
        }
    }

    /// A string.
    pub(crate) fn text(self, key: &str) -> Option<&'t [u8]> {
        match self.get(key)? {
            Entry::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A section.
    pub(crate) fn section(self, key: &str) -> Option<Self> {
        match self.get(key)? {
            Entry::Section(section) => Some(section),
            _ => None,
        }
    }

    /// The items of a list.
    pub(crate) fn items(self) -> impl Iterator<Item = Item<'t>> {
        self.entries().filter_map(|(_, entry)| match entry {
            Entry::Number(number) => Some(Item::Number(number)),
            Entry::Text(text) => Some(Item::Text(text)),
            Entry::List(_) | Entry::Section(_) => None,
        })
    }

    /// The strings of a list; `None` when there is no such list or something else is in it.
    pub(crate) fn words(self, key: &str) -> Option<Vec<&'t [u8]>> {
        let Some(Entry::List(list)) = self.get(key) else { return None };
        list.items()
            .map(|item| match item {
                Item::Text(text) => Some(text),
                Item::Number(_) => None,
            })
            .collect()
    }
}

struct Parser<'t> {
    text: &'t [u8],
    place: usize,
    nodes: Vec<Node<'t>>,
    /// The sections that are not closed yet.
    open: Vec<usize>,
}

impl<'t> Parser<'t> {
    fn run(&mut self) -> Result<(), Fault> {
        loop {
            match self.peek() {
                None if self.open.is_empty() => return self.check_names(0),
                None => return Err(Fault::Malformed),
                Some(b'}') => {
                    self.place += 1;
                    let section = self.open.pop().ok_or(Fault::Malformed)?;
                    self.nodes[section].value = Value::Section(self.nodes.len());
                    self.check_names(section + 1)?;
                }
                Some(_) => self.entry()?,
            }
        }
    }

    fn entry(&mut self) -> Result<(), Fault> {
        let key = self.word()?;
        match self.next()? {
            b'{' if self.open.len() < DEPTH_MAX => {
                self.open.push(self.nodes.len());
                self.push(key, Value::Section(0))
            }
            b'=' if self.peek() == Some(b'[') => self.list(key),
            b'=' => {
                let value = self.scalar()?;
                self.push(key, value)
            }
            _ => Err(Fault::Malformed),
        }
    }

    fn list(&mut self, key: &'t [u8]) -> Result<(), Fault> {
        self.place += 1;
        let list = self.nodes.len();
        self.push(key, Value::List(0))?;
        if self.peek() == Some(b']') {
            self.place += 1;
        } else {
            loop {
                let value = self.scalar()?;
                self.push(b"", value)?;
                match self.next()? {
                    b',' => {}
                    b']' => break,
                    _ => return Err(Fault::Malformed),
                }
            }
        }
        self.nodes[list].value = Value::List(self.nodes.len());
        Ok(())
    }

    fn scalar(&mut self) -> Result<Value<'t>, Fault> {
        if self.peek() == Some(b'"') {
            self.place += 1;
            return self.string().map(Value::Text);
        }
        let word = std::str::from_utf8(self.word()?).map_err(|_| Fault::Malformed)?;
        let digits = word.strip_prefix('-').unwrap_or(word);
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Fault::Malformed);
        }
        word.parse().map(Value::Number).map_err(|_| Fault::Malformed)
    }

    /// The rest of a string, with its quote passed.
    fn string(&mut self) -> Result<&'t [u8], Fault> {
        let start = self.place;
        loop {
            match self.text.get(self.place).ok_or(Fault::Malformed)? {
                b'"' => break,
                b'\\' => self.place += 2,
                _ => self.place += 1,
            }
        }
        self.place += 1;
        Ok(&self.text[start..self.place - 1])
    }

    fn word(&mut self) -> Result<&'t [u8], Fault> {
        self.skip();
        let rest = &self.text[self.place..];
        let ends = |byte: &u8| byte.is_ascii_whitespace() || b"={}[],\"#\0".contains(byte);
        let length = rest.iter().position(ends).unwrap_or(rest.len());
        self.place += length;
        if length == 0 { Err(Fault::Malformed) } else { Ok(&rest[..length]) }
    }

    fn push(&mut self, key: &'t [u8], value: Value<'t>) -> Result<(), Fault> {
        if self.nodes.len() >= NODES_MAX {
            return Err(Fault::TooLong);
        }
        self.nodes.push(Node { key, value });
        Ok(())
    }

    /// Passes blanks and comments.
    fn skip(&mut self) {
        while let Some(byte) = self.text.get(self.place) {
            if *byte == b'#' {
                let rest = &self.text[self.place..];
                self.place += rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            } else if byte.is_ascii_whitespace() {
                self.place += 1;
            } else {
                break;
            }
        }
    }

    fn peek(&mut self) -> Option<u8> {
        self.skip();
        self.text.get(self.place).copied()
    }

    fn next(&mut self) -> Result<u8, Fault> {
        let byte = self.peek().ok_or(Fault::Malformed)?;
        self.place += 1;
        Ok(byte)
    }

    /// A name that stands for two things: nobody can tell which one is meant.
    fn check_names(&self, start: usize) -> Result<(), Fault> {
        let section = Section { nodes: &self.nodes, start, end: self.nodes.len() };
        let mut names: Vec<&[u8]> = section.entries().map(|(name, _)| name).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) { Err(Fault::Malformed) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
