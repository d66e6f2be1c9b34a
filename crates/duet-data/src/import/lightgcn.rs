//! The text form of the LightGCN code release: `user item item ...` a line, without time or weight.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use duet_core::{Error, Result};

use super::interactions::Events;

/// Reads such a file. A user without items has no event and is left out.
pub(crate) fn read(path: &Path) -> Result<Events> {
    let mut events = Events::default();
    let mut reader = BufReader::with_capacity(1 << 18, File::open(path).map_err(Error::io(path))?);
    let (mut line, mut row) = (Vec::new(), 0);
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(Error::io(path))? == 0 {
            break;
        }
        row += 1;
        let text = std::str::from_utf8(&line).map_err(|_| Error::data_row(path, row, "not UTF-8"))?;
        if let Some(bad) = text.split_whitespace().find(|word| !word.bytes().all(|byte| byte.is_ascii_digit())) {
            return Err(Error::data_row(
                path,
                row,
                format!("{bad:?} is not a whole number; a line is `user item item ...`"),
            ));
        }
        let mut words = text.split_whitespace();
        if let Some(user) = words.next() {
            words.for_each(|item| events.push(user, item));
        }
    }
    if events.users.is_empty() {
        return Err(Error::data(path, "no interactions: the file is empty or holds no `user item ...` line"));
    }
    Ok(events)
}
