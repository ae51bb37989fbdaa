//! Splits a command line into options, values and arguments the way popt 1.19 does.
//!
//! Short options can be bundled (`-Ln`) and can carry their value (`-tADDR`, `-p60`, `-p=60`); long
//! ones take theirs from `=` or from the next word and cannot be abbreviated. A required value is
//! taken even if it begins with '-'. Words that belong to no option are kept for the end, and
//! `--` ends the options.

use super::table::{Value, WORDS, Word};

/// What popt refuses; the texts are popt's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordError {
    Unknown,
    MissingValue,
    UnwantedValue,
}

impl WordError {
    pub const fn text(self) -> &'static str {
        match self {
            WordError::Unknown => "unknown option",
            WordError::MissingValue => "missing argument",
            WordError::UnwantedValue => "option does not take an argument",
        }
    }
}

/// An option and its value, if it has one.
#[derive(Clone, Copy, Debug)]
pub struct Found<'w> {
    pub word: &'static Word,
    pub value: Option<&'w str>,
}

/// The position in a command line.
#[derive(Debug)]
pub struct Words<'w> {
    words: &'w [String],
    next: usize,
    /// What is left of a bundle of short options.
    bundle: &'w str,
    options_ended: bool,
    arguments: Vec<&'w str>,
}

impl<'w> Words<'w> {
    pub fn new(words: &'w [String]) -> Self {
        Words {
            words,
            next: 0,
            bundle: "",
            options_ended: false,
            arguments: Vec::new(),
        }
    }

    /// The next option; `None` at the end.
    ///
    /// # Errors
    /// See [`WordError`]; [`Words::last`] is the word it is about.
    pub fn next_option(&mut self) -> Result<Option<Found<'w>>, WordError> {
        while self.bundle.is_empty() {
            let Some(text) = self.take() else {
                return Ok(None);
            };
            if self.options_ended || !text.starts_with('-') || text == "-" {
                self.arguments.push(text);
            } else if text == "--" {
                self.options_ended = true;
            } else if let Some(long) = text.strip_prefix("--") {
                return self.long(long).map(Some);
            } else {
                self.bundle = &text[1..];
            }
        }
        self.short().map(Some)
    }

    /// The word taken last, by which popt names the culprit.
    pub fn last(&self) -> &'w str {
        self.next
            .checked_sub(1)
            .and_then(|at| self.words.get(at))
            .map_or("", String::as_str)
    }

    /// The words that were neither options nor values; complete once the options have ended.
    pub fn into_arguments(self) -> Vec<&'w str> {
        self.arguments
    }

    fn take(&mut self) -> Option<&'w str> {
        let text = self.words.get(self.next)?;
        self.next += 1;
        Some(text)
    }

    fn long(&mut self, text: &'w str) -> Result<Found<'w>, WordError> {
        let (name, inline) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let word = WORDS
            .iter()
            .find(|word| word.long == name)
            .ok_or(WordError::Unknown)?;
        self.with_value(word, inline)
    }

    fn short(&mut self) -> Result<Found<'w>, WordError> {
        let mut letters = self.bundle.chars();
        let letter = letters.next();
        let rest = letters.as_str();
        self.bundle = "";
        let word = WORDS
            .iter()
            .find(|word| word.short == letter)
            .ok_or(WordError::Unknown)?;
        if word.value == Value::No {
            if rest.starts_with('=') {
                return Err(WordError::UnwantedValue);
            }
            self.bundle = rest;
            return Ok(Found { word, value: None });
        }
        let inline = (!rest.is_empty()).then(|| rest.strip_prefix('=').unwrap_or(rest));
        self.with_value(word, inline)
    }

    fn with_value(
        &mut self,
        word: &'static Word,
        inline: Option<&'w str>,
    ) -> Result<Found<'w>, WordError> {
        let value = match (word.value, inline) {
            (Value::No, Some(_)) => return Err(WordError::UnwantedValue),
            (Value::No, None) => None,
            (Value::Required | Value::Optional, Some(value)) => Some(value),
            (Value::Required, None) => Some(self.take().ok_or(WordError::MissingValue)?),
            (Value::Optional, None) => {
                let follows = self.words.get(self.next);
                let taken = follows.is_some_and(|text| !text.starts_with('-'));
                if taken { self.take() } else { None }
            }
        };
        Ok(Found { word, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long names with values, then the arguments or the error with its word.
    fn split(line: &str) -> String {
        let words: Vec<String> = line.split(' ').map(String::from).collect();
        let mut lexer = Words::new(&words);
        let mut text = String::new();
        loop {
            match lexer.next_option() {
                Ok(Some(Found { word, value: None })) => text += &format!("{} ", word.long),
                Ok(Some(Found {
                    word,
                    value: Some(value),
                })) => {
                    text += &format!("{}={value} ", word.long);
                }
                Ok(None) => return format!("{text}| {}", lexer.into_arguments().join(" ")),
                Err(error) => return format!("{text}| {}: {}", lexer.last(), error.text()),
            }
        }
    }

    #[test]
    fn short_options_bundle_and_carry_values() {
        assert_eq!(split("-Lnt x:1"), "list numeric tcp-service=x:1 | ");
        assert_eq!(
            split("-Atx:1 -srr -p60"),
            "add-service tcp-service=x:1 scheduler=rr persistent=60 | "
        );
        assert_eq!(
            split("-A -w=5 --weight=6 --weight="),
            "add-service weight=5 weight=6 weight= | "
        );
    }

    #[test]
    fn an_optional_value_is_the_next_word_unless_it_looks_like_an_option() {
        assert_eq!(
            split("-A -p -M 255.0.0.0"),
            "add-service persistent netmask=255.0.0.0 | "
        );
        assert_eq!(split("-A -p 60 -o"), "add-service persistent=60 ops | ");
        assert_eq!(split("-A --persistent"), "add-service persistent | ");
        assert_eq!(split("-A --persistent=60"), "add-service persistent=60 | ");
        assert_eq!(
            split("-A -p -5"),
            "add-service persistent | -5: unknown option"
        );
    }

    #[test]
    fn a_required_value_may_begin_with_a_dash() {
        assert_eq!(
            split("-a -x -5 -y -n"),
            "add-server u-threshold=-5 l-threshold=-n | "
        );
    }

    #[test]
    fn errors_name_the_word_taken_last() {
        assert_eq!(split("-A -t"), "add-service | -t: missing argument");
        assert_eq!(split("-At"), "add-service | -At: missing argument");
        assert_eq!(split("-Lq"), "list | -Lq: unknown option");
        assert_eq!(split("-L --stat"), "list | --stat: unknown option");
        assert_eq!(
            split("-L --stats=1"),
            "list | --stats=1: option does not take an argument"
        );
    }

    #[test]
    fn an_equals_sign_is_no_part_of_a_value() {
        let text = "option does not take an argument";
        assert_eq!(split("-L -n="), format!("list | -n=: {text}"));
        assert_eq!(split("-nL="), format!("numeric | -nL=: {text}"));
        assert_eq!(split("-A -p= x"), "add-service persistent= | x");
        assert_eq!(split("-L --="), "list | --=: unknown option");
    }

    #[test]
    fn other_words_are_kept_for_the_end() {
        assert_eq!(split("--set 1 2 -n 3"), "set numeric | 1 2 3");
        assert_eq!(split("-L - -- -n x"), "list | - -n x");
        assert_eq!(split("-A -p -- x"), "add-service persistent | x");
        assert_eq!(split("-A -t -- x"), "add-service tcp-service=-- | x");
    }
}
