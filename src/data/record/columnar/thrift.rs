//! The numbers in Thrift's compact protocol, in which Parquet writes its headers: what they say of sizes is looked at before anything of that size is made.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::files::wall::PARQUET;

/// How deep structs and lists may stand in each other.
const DEPTH: usize = 32;

/// A value; text, fractions and truth values are passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Number(i64),
    Struct(Fields),
    List(Vec<Value>),
    Other,
}

/// The fields of a struct by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields(BTreeMap<i64, Value>);

impl Fields {
    pub(super) fn number(&self, field: i64) -> Option<i64> {
        if let Some(Value::Number(number)) = self.0.get(&field) { Some(*number) } else { None }
    }

    pub(super) fn fields(&self, field: i64) -> Option<&Self> {
        if let Some(Value::Struct(fields)) = self.0.get(&field) { Some(fields) } else { None }
    }

    /// The structs of a list; none where there is no such list.
    pub(super) fn list(&self, field: i64) -> impl Iterator<Item = &Self> {
        let items = if let Some(Value::List(items)) = self.0.get(&field) { &items[..] } else { &[] };
        items.iter().filter_map(|item| if let Value::Struct(fields) = item { Some(fields) } else { None })
    }
}

/// Reads a struct at the beginning of some bytes; gives it, and how many bytes it takes.
///
/// # Errors
/// Bytes that end before it does; a type that there is not; nesting beyond reason.
pub(super) fn read(bytes: &[u8]) -> Result<(Fields, usize)> {
    let mut reader = Reader { left: bytes };
    let fields = reader.fields(DEPTH)?;
    Ok((fields, bytes.len() - reader.left.len()))
}

struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, left) = self.left.split_at_checked(count).ok_or_else(|| PARQUET.refused("a header ends too soon"))?;
        self.left = left;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// Seven bits a byte, the lowest first.
    fn varint(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(PARQUET.refused("a number of a header has no end"))
    }

    /// Zigzag: the sign is the lowest bit.
    fn signed(&mut self) -> Result<i64> {
        let number = self.varint()?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    fn size(&mut self) -> Result<usize> {
        Ok(usize::try_from(self.varint()?).unwrap_or(usize::MAX))
    }

    fn fields(&mut self, depth: usize) -> Result<Fields> {
        let (mut fields, mut number) = (Fields::default(), 0_i64);
        loop {
            let head = self.byte()?;
            let (step, kind) = (head >> 4, head & 15);
            if kind == 0 {
                return Ok(fields);
            }
            number = if step == 0 { self.signed()? } else { number.wrapping_add(i64::from(step)) };
            // A truth value is in the type.
            let value = if kind <= 2 { Value::Other } else { self.value(kind, depth)? };
            fields.0.insert(number, value);
        }
    }

    fn value(&mut self, kind: u8, depth: usize) -> Result<Value> {
        let depth = depth.checked_sub(1).ok_or_else(|| PARQUET.refused("a header is nested too deep"))?;
        Ok(match kind {
            1 | 2 => self.byte().map(|_| Value::Other)?,
            3 => Value::Number(i64::from(self.byte()?.cast_signed())),
            4..=6 => Value::Number(self.signed()?),
            7 => self.take(8).map(|_| Value::Other)?,
            8 => {
                let length = self.size()?;
                self.take(length).map(|_| Value::Other)?
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = if head >> 4 == 15 { self.size()? } else { usize::from(head >> 4) };
                // Every item takes a byte at least.
                if count > self.left.len() {
                    return Err(Error::mismatch("items of a list", format!("at most {}", self.left.len()), count));
                }
                Value::List((0..count).map(|_| self.value(head & 15, depth)).collect::<Result<_>>()?)
            }
            11 => {
                let count = self.size()?;
                let kinds = if count == 0 { 0 } else { self.byte()? };
                for _ in 0..count {
                    self.value(kinds >> 4, depth)?;
                    self.value(kinds & 15, depth)?;
                }
                Value::Other
            }
            12 => Value::Struct(self.fields(depth)?),
            other => return Err(PARQUET.refused(format!("a header has a field of type {other}"))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_what_holds_them_are_found() -> Result<()> {
        // 1: i32 -3; 5: struct { 1: i32 150; 2: true }; 6: list of two structs { 4: i64 1 }; 9: "ab".
        let bytes = [0x15, 5, 0x4c, 0x15, 0xac, 2, 0x11, 0, 0x19, 0x2c, 0x46, 2, 0, 0x46, 2, 0, 0x38, 2, b'a', b'b', 0, 0xff];
        let (fields, length) = read(&bytes)?;
        assert_eq!(length, bytes.len() - 1);
        assert_eq!(fields.number(1), Some(-3));
        assert_eq!(fields.fields(5).and_then(|inner| inner.number(1)), Some(150));
        assert_eq!(fields.list(6).map(|item| item.number(4)).collect::<Vec<_>>(), [Some(1), Some(1)]);
        assert_eq!((fields.number(9), fields.number(7)), (None, None));
        Ok(())
    }

    #[test]
    fn what_has_no_end_is_refused() {
        let deep = [0x1c].repeat(100);
        let lists = [&[0x19][..], &[0x19].repeat(100)].concat();
        let bytes: [&[u8]; 8] = [
            b"",
            &[0x15],
            &[0x15, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x18, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10],
            &[0x19, 0xf5, 0xff, 0xff, 0xff, 0xff, 7],
            &[0x1e],
            &deep,
            &lists,
        ];
        for bytes in bytes {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
    }
}
