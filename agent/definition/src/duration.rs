//! Durations as people write them: a decimal number and a unit, `100ms`, `1.5s`, `10m`, `1h`.
//!
//! The grain is a millisecond: it is what the protocol carries, and no kernel timer here is finer.

use std::time::Duration;

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotADuration {
    /// A number without a unit.
    NoUnit,
    /// A number with a unit that is written otherwise here.
    Unit {
        /// How the same is written right, where that is known.
        right: Option<String>,
    },
    /// A fraction of a millisecond.
    TooFine,
    /// Not a number followed by letters.
    NoNumber,
}

const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// What people write instead, and the unit that they mean.
const OTHER_UNITS: [(&str, &str); 17] = [
    ("msec", "ms"),
    ("msecs", "ms"),
    ("millis", "ms"),
    ("millisecond", "ms"),
    ("milliseconds", "ms"),
    ("sec", "s"),
    ("secs", "s"),
    ("second", "s"),
    ("seconds", "s"),
    ("min", "m"),
    ("mins", "m"),
    ("minute", "m"),
    ("minutes", "m"),
    ("hr", "h"),
    ("hrs", "h"),
    ("hour", "h"),
    ("hours", "h"),
];

/// Reads a duration. Digits are bounded so that the arithmetic cannot overflow.
pub(crate) fn parse(text: &str) -> Result<Duration, NotADuration> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let dotted = number.contains('.');
    if whole.is_empty() || fraction.contains('.') || (dotted && fraction.is_empty()) {
        return Err(NotADuration::NoNumber);
    }
    if unit.is_empty() {
        return Err(NotADuration::NoUnit);
    }
    let Some((_, unit_ms)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(NotADuration::Unit { right: right_unit(number, unit) });
    };
    if whole.len() > 12 {
        return Ok(Duration::MAX);
    }
    if fraction.len() > 9 {
        return Err(NotADuration::TooFine);
    }
    let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| NotADuration::NoNumber)?;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let scaled = digits * u128::from(*unit_ms);
    if !scaled.is_multiple_of(scale) {
        return Err(NotADuration::TooFine);
    }
    Ok(Duration::from_millis(u64::try_from(scaled / scale).unwrap_or(u64::MAX)))
}

/// The ways to complete a bare number with a unit that `fits` accepts.
pub(crate) fn with_units(number: &str, fits: impl Fn(Duration) -> bool) -> Vec<String> {
    let complete = |(unit, _): &(&str, u64)| format!("{number}{unit}");
    UNITS.iter().rev().map(complete).filter(|text| parse(text).is_ok_and(&fits)).collect()
}

fn right_unit(number: &str, unit: &str) -> Option<String> {
    let bare = unit.trim().to_ascii_lowercase();
    if matches!(bare.as_str(), "d" | "day" | "days") {
        let hours = number.parse::<u16>().ok()?.checked_mul(24)?;
        return Some(format!("{hours}h"));
    }
    let known = UNITS.iter().map(|(name, _)| *name).find(|name| *name == bare);
    let meant = OTHER_UNITS.iter().find(|(other, _)| *other == bare).map(|(_, right)| *right);
    known.or(meant).map(|right| format!("{number}{right}"))
}

/// Prints a duration in the largest unit that divides it; [`parse`] reads it back to the same value.
pub(crate) fn print(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms == 0 {
        return "0s".to_owned();
    }
    let divides = |unit_ms: u64| ms.is_multiple_of(u128::from(unit_ms));
    UNITS
        .iter()
        .find(|(_, unit_ms)| divides(*unit_ms))
        .map_or_else(|| format!("{ms}ms"), |(name, unit_ms)| format!("{}{name}", ms / u128::from(*unit_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, ms) in [
            ("100ms", 100),
            ("2s", 2_000),
            ("1.5s", 1_500),
            ("0.25s", 250),
            ("10m", 600_000),
            ("1h", 3_600_000),
            ("0s", 0),
            ("0.5m", 30_000),
            ("0.001s", 1),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn a_number_beyond_all_limits_is_simply_long() {
        assert_eq!(parse("9999999999999s"), Ok(Duration::MAX));
        assert!(parse("999999999999h").unwrap() > Duration::from_secs(1 << 40));
    }

    #[test]
    fn says_why_it_does_not() {
        let unit = |right: &str| NotADuration::Unit { right: Some(right.to_owned()) };
        for (text, why) in [
            ("100", NotADuration::NoUnit),
            ("1.5", NotADuration::NoUnit),
            ("100 ms", unit("100ms")),
            ("5min", unit("5m")),
            ("2S", unit("2s")),
            ("3d", unit("72h")),
            ("3us", NotADuration::Unit { right: None }),
            ("0.5ms", NotADuration::TooFine),
            ("0.0000000001h", NotADuration::TooFine),
            ("", NotADuration::NoNumber),
            ("ms", NotADuration::NoNumber),
            ("-1s", NotADuration::NoNumber),
            ("1.s", NotADuration::NoNumber),
            (".5s", NotADuration::NoNumber),
            ("1.2.3s", NotADuration::NoNumber),
        ] {
            assert_eq!(parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn print_is_the_inverse() {
        for (ms, text) in [(0, "0s"), (100, "100ms"), (1_000, "1s"), (600_000, "10m"), (90_000, "90s")] {
            assert_eq!(print(Duration::from_millis(ms)), text);
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)));
        }
    }
}
