//! Scales of axes, linear and logarithmic.

/// A scale from values to places from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// The value at 0.
    pub low: f64,
    /// The value at 1.
    pub high: f64,
    /// Whether it is logarithmic: then both are positive.
    pub log: bool,
}

impl Scale {
    /// The linear scale from the least to the greatest of `values`; `None` if there are none.
    pub fn linear(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        (low <= high).then_some(Self { low, high, log: false })
    }

    /// The logarithmic scale of those `values` that are positive; `None` if there are none.
    pub fn logarithmic(values: impl Iterator<Item = f64>) -> Option<Self> {
        Self::linear(values.filter(|value| *value > 0.0)).map(|scale| Self { log: true, ..scale })
    }

    /// With some room at both ends, also where there is no extent.
    #[must_use]
    pub fn widened(self) -> Self {
        let (low, high) = (self.apply(self.low), self.apply(self.high));
        let least = if self.log { 0.1 } else { (high.abs() * 0.1).max(1e-9) };
        let room = if high > low { (high - low) * 0.04 } else { least };
        let back = |value: f64| if self.log { value.exp() } else { value };
        Self { low: back(low - room), high: back(high + room), ..self }
    }

    fn apply(self, value: f64) -> f64 {
        if self.log { value.ln() } else { value }
    }

    /// The place of a value, from 0 to 1; what lies beyond is moved to the end.
    pub fn place(self, value: f64) -> f64 {
        if self.log && value <= 0.0 {
            return 0.0;
        }
        let (low, high) = (self.apply(self.low), self.apply(self.high));
        if high > low { ((self.apply(value) - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 }
    }

    /// Round numbers inside it, about `wanted` of them.
    pub fn ticks(self, wanted: usize) -> Vec<f64> {
        if self.log && self.high >= 10.0 * self.low { self.powers(wanted) } else { self.steps(wanted) }
    }

    fn steps(self, wanted: usize) -> Vec<f64> {
        let rough = (self.high - self.low) / wanted.max(1) as f64;
        if !rough.is_finite() || rough <= 0.0 {
            return vec![self.low];
        }
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough).unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        (first..).map(|i| i as f64 * step).take_while(|v| *v <= self.high + step * 1e-9).take(wanted * 3).collect()
    }

    /// Powers of ten, where they are few also their multiples, where they are many every second, third, …
    fn powers(self, wanted: usize) -> Vec<f64> {
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let decades = (last - first).unsigned_abs() as usize;
        let multiples: &[f64] = if decades * 2 <= wanted { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let ticks = (first..=last).step_by(decades.div_ceil(wanted.max(1)).max(1));
        let ticks = ticks.flat_map(|power| multiples.iter().map(move |multiple| multiple * 10f64.powi(power)));
        ticks.filter(|tick| (self.low..=self.high).contains(tick)).collect()
    }
}

/// A number as short as its axis needs it: `0.003`, `6.12`, `48,729` as `48.7 k`, `3.0e-5`.
pub fn number(value: f64) -> String {
    let size = value.abs();
    let plain = |text: String| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    match size {
        _ if size < 1e-12 => "0".into(),
        _ if size >= 1e9 => plain(format!("{:.2}", value / 1e9)) + " G",
        _ if size >= 1e6 => plain(format!("{:.2}", value / 1e6)) + " M",
        _ if size >= 1e4 => plain(format!("{:.1}", value / 1e3)) + " k",
        _ if size >= 1e3 => plain(format!("{value:.0}")),
        _ if size >= 1e-3 => plain(format!("{value:.*}", (3 - size.log10().floor() as i32).max(0) as usize)),
        _ => {
            let text = format!("{value:.1e}");
            text.replace(".0e", "e")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 3e-4, 0.003, 0.0125, 6.1247, 48.0, 150.0, 4_871.0, 48_729.0, 1_250_000.0, -2.5].map(number);
        assert_eq!(shown, ["0", "3e-4", "0.003", "0.0125", "6.125", "48", "150", "4871", "48.7 k", "1.25 M", "-2.5"]);
    }

    #[test]
    fn logarithmic_scales() {
        let scale = Scale::logarithmic([0.0, -3.0, 1.0, 1000.0].into_iter()).unwrap();
        assert_eq!((scale.low, scale.high), (1.0, 1000.0), "only what is positive");
        assert_eq!(
            [0.0, 1.0, 10.0, 100.0, 1000.0, 1e9].map(|v| (scale.place(v) * 30.0).round()),
            [0.0, 0.0, 10.0, 20.0, 30.0, 30.0]
        );
        assert_eq!(scale.ticks(4), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(Scale { low: 2.0, high: 60.0, log: true }.ticks(5), [2.0, 5.0, 10.0, 20.0, 50.0]);
        assert_eq!(Scale { low: 1e-9, high: 1e9, log: true }.ticks(5).len(), 5, "every fourth power");
        // Less than a decade: numbers as on a linear scale.
        assert_eq!(Scale { low: 3.0, high: 9.0, log: true }.ticks(3), [4.0, 6.0, 8.0]);
        assert_eq!(Scale::logarithmic([0.0, -1.0].into_iter()), None);
    }

    proptest! {
        #[test]
        fn ticks_are_inside_and_not_too_many(low in -1e9..1e9f64, extent in 1e-6..1e9f64) {
            let scale = Scale { low, high: low + extent, log: false };
            let ticks = scale.ticks(5);
            prop_assert!(ticks.len() <= 15);
            prop_assert!(ticks.iter().all(|t| *t >= low - extent * 1e-6 && *t <= low + extent * (1.0 + 1e-6)));
        }

        #[test]
        fn ticks_of_logarithms_too(low in 1e-9..1e9f64, factor in 1.001..1e12f64) {
            let scale = Scale { low, high: low * factor, log: true };
            let ticks = scale.ticks(5);
            prop_assert!(!ticks.is_empty() && ticks.len() <= 15, "{:?}", ticks);
            let inside = |t: &f64| *t >= low * (1.0 - 1e-6) && *t <= low * factor * (1.0 + 1e-6);
            prop_assert!(ticks.iter().all(inside), "{:?}", ticks);
        }

        #[test]
        fn places_are_in_order_and_inside(low in 1e-6..1e6f64, factor in 1.0..1e6f64, log: bool, a in -1e7..1e7f64,
                                          b in -1e7..1e7f64) {
            let scale = Scale { low, high: low * factor, log }.widened();
            let (a, b) = (scale.place(a.min(b)), scale.place(a.max(b)));
            prop_assert!((0.0..=1.0).contains(&a) && (0.0..=1.0).contains(&b) && a <= b);
            prop_assert!(scale.place(low) > 0.0 && scale.place(low * factor) < 1.0, "widened");
        }
    }
}
