//! The few statistics that the tables show.

/// The value below which `part` of the values lie (nearest rank); `NaN` of nothing.
pub(crate) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// With fewer than a hundred values this is the largest.
pub(crate) fn p99(values: &[f64]) -> f64 {
    quantile(values, 0.99)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let written = |values: &[f64]| format!("{} {}", median(values), p99(values));
        assert_eq!(written(&values), "100 198");
        assert_eq!(written(&[7.0, 9.0]), "7 9");
        assert!(median(&[]).is_nan());
    }
}
