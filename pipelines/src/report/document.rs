//! A page that needs nothing else: its frame, style and script.
use super::html::escape;
use super::plot::Plot;

const STYLE: &str = include_str!("page.css");
const PLOT_SCRIPT: &str = include_str!("plot.js");
const PAGE_SCRIPT: &str = include_str!("page.js");

/// A page whose plots, if any, are [`section`]s in `body`. Its policy forbids the browser to load anything.
pub(crate) fn document(title: &str, body: &str) -> String {
    whole(title, body, "", PAGE_SCRIPT, "")
}

/// A page with `style` and `script` of its own, which may ask the server that it comes from, and nobody else.
pub(crate) fn live(title: &str, body: &str, style: &str, script: &str) -> String {
    whole(title, body, style, script, "; connect-src 'self'")
}

fn whole(title: &str, body: &str, style: &str, script: &str, policy: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>{}</title>\n<style>\n{STYLE}{style}</style>\n</head>\n\
         <body>\n{body}<script>\n{PLOT_SCRIPT}{script}</script>\n</body>\n</html>\n",
        escape(title)
    )
}

/// Plots, with what is common to them above.
pub(crate) fn section(plots: &[Plot]) -> String {
    let figures: String = plots.iter().map(Plot::figure).collect();
    format!(
        "<p class=\"controls\" hidden>\
         <label><input type=\"checkbox\" id=\"log-x\"> log x</label>\
         <label><input type=\"checkbox\" id=\"log-y\"> log y</label>\
         <span class=\"none\">The pointer on a plot shows the values of all. CSV: the points that are drawn.</span></p>\n\
         <section class=\"plots\">\n{figures}</section>\n"
    )
}
