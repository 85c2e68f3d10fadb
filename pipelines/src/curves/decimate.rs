//! Fewer points: for each piece of the axis, what stays visible.
use super::{Point, Scale};

/// What stays of the points in a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The last one: of a curve that is smooth already.
    Last,
    /// The least and the greatest.
    Extremes,
}

/// At most `buckets` groups of neighbours, equally wide on `scale`, each replaced by what `keep` says. The last point
/// always stays. Points ascend in x.
pub fn decimated(points: &[Point], scale: Scale, buckets: usize, keep: Keep) -> Vec<Point> {
    if points.len() <= buckets {
        return points.to_vec();
    }
    let bucket = |point: &Point| ((scale.place(point.0) * buckets as f64) as usize).min(buckets - 1);
    let mut kept = Vec::with_capacity(2 * buckets + 1);
    for group in points.chunk_by(|a, b| bucket(a) == bucket(b)) {
        match keep {
            Keep::Last => kept.extend(group.last()),
            Keep::Extremes => extremes(group, &mut kept),
        }
    }
    if kept.last() != points.last() {
        kept.extend(points.last());
    }
    kept
}

fn extremes(group: &[Point], kept: &mut Vec<Point>) {
    let least = (0..group.len()).min_by(|a, b| group[*a].1.total_cmp(&group[*b].1));
    let most = (0..group.len()).max_by(|a, b| group[*a].1.total_cmp(&group[*b].1));
    if let (Some(least), Some(most)) = (least, most) {
        kept.push(group[least.min(most)]);
        if least != most {
            kept.push(group[least.max(most)]);
        }
    }
}

/// The points of both, which ascend in x, once each.
pub fn merged(a: Vec<Point>, b: Vec<Point>) -> Vec<Point> {
    let mut all = [a, b].concat();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.dedup_by(|a, b| a.0 == b.0);
    all
}

/// Means over `width` points around each point. At the start of a run, which is steep, as far to one side as to the
/// other; at its end over what there is.
pub fn smoothed(points: &[Point], width: usize) -> Vec<Point> {
    let half = width / 2;
    let mut sums = Vec::with_capacity(points.len() + 1);
    sums.push(0.0);
    for (_, y) in points {
        sums.push(sums[sums.len() - 1] + y);
    }
    let mean = |i: usize| {
        let (from, to) = (i.saturating_sub(half), points.len().min(i + half.min(i) + 1));
        (sums[to] - sums[from]) / (to - from) as f64
    };
    points.iter().enumerate().map(|(i, (x, _))| (*x, mean(i))).collect()
}

/// The width of means that shows the course of a curve with so many points.
pub fn window(points: usize) -> usize {
    (points / 50 * 2 + 1).clamp(5, 2001)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scale(high: f64, log: bool) -> Scale {
        Scale { low: 1.0, high, log }
    }

    #[test]
    fn peaks_stay() {
        let mut points: Vec<Point> = (1..=100_000).map(|i| (i as f64, 1.0)).collect();
        points[77_777].1 = 50.0;
        let kept = decimated(&points, scale(1e5, false), 500, Keep::Extremes);
        assert!(kept.contains(&(77_778.0, 50.0)) && kept.last() == points.last() && kept.len() <= 1001);
        assert!(kept.windows(2).all(|pair| pair[0].0 < pair[1].0), "in order");
        let last = decimated(&points, scale(1e5, false), 500, Keep::Last);
        assert!(last.len() <= 501 && last.last() == points.last());
    }

    #[test]
    fn the_beginning_of_a_logarithmic_axis_keeps_its_points() {
        let points: Vec<Point> = (1..=100_000).map(|i| (i as f64, 1.0)).collect();
        let kept = decimated(&points, scale(1e5, true), 200, Keep::Last);
        assert!(kept.iter().filter(|point| point.0 <= 20.0).count() >= 15, "{:?}", &kept[..20]);
        let both = merged(kept.clone(), decimated(&points, scale(1e5, false), 200, Keep::Last));
        assert!(both.windows(2).all(|pair| pair[0].0 < pair[1].0) && kept.iter().all(|point| both.contains(point)));
    }

    #[test]
    fn means_keep_a_slope() {
        let slope: Vec<Point> = (0..20).map(|i| (i as f64, 2.0 * i as f64)).collect();
        let means = smoothed(&slope, 7);
        assert!(means[..17].iter().zip(&slope).all(|(a, b)| (a.1 - b.1).abs() < 1e-9));
        assert_eq!(means[19].1, 35.0, "of the last four");
    }

    proptest! {
        #[test]
        fn the_range_stays_and_the_number_is_bounded(ys in proptest::collection::vec(-1e6..1e6f64, 1..2000),
                                                     buckets in 1..300usize, log: bool) {
            let points: Vec<Point> = ys.iter().enumerate().map(|(i, y)| (1.0 + i as f64, *y)).collect();
            let kept = decimated(&points, scale(points.len() as f64, log), buckets, Keep::Extremes);
            prop_assert!(kept.len() <= 2 * buckets + 1);
            let range = |points: &[Point]| Scale::linear(points.iter().map(|point| point.1));
            prop_assert_eq!(range(&kept), range(&points));
        }
    }
}
