// Reports in a headless Chromium: what people see is there, inside the page, without a network and without an error.
//
//   CHROMIUM=/usr/bin/chromium node web/e2e/report.mjs REPORT.html FACTS.json [PICTURE.png]
//
// FACTS.json says what the page must show: {"runs": ["001"], "classes": ["a", "b"], "charts": ["loss"], "options": ["learning-rate"], "differs": ["learning-rate"], "samples": 4}.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

import { chromium } from "playwright-core";

const [report, facts, picture] = process.argv.slice(2);
const wanted = JSON.parse(readFileSync(facts, "utf8"));
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--disable-quic"] });
try {
  for (const [width, scheme] of [[1280, "light"], [1280, "dark"], [420, "light"]]) {
    const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme: scheme });
    const [asked, wrong] = [[], []];
    page.on("request", (request) => asked.push(request.url()));
    page.on("console", (message) => ["error", "warning"].includes(message.type()) && wrong.push(message.text()));
    page.on("pageerror", (error) => wrong.push(String(error)));
    await page.goto(pathToFileURL(report).href);
    assert.deepEqual(asked, [pathToFileURL(report).href], "the page is one file without a network");
    assert.deepEqual(wrong, [], "the page has no errors");

    const text = await page.locator("main").innerText();
    for (const run of wanted.runs) assert(text.includes(run), `the run ${run} is named`);
    for (const name of wanted.charts) assert(await page.locator("figure", { hasText: name }).count() > 0, `there is a chart of ${name}`);
    for (const figure of await page.locator("figure").all()) {
      const drawn = await figure.evaluate((figure) => {
        const [frame, svg] = [figure, figure.querySelector("svg")].map((node) => node.getBoundingClientRect());
        const marks = [...figure.querySelectorAll("svg polyline, svg path, svg circle")].map((node) => node.getBoundingClientRect());
        const inside = (box) => box.left >= svg.left - 1 && box.right <= svg.right + 1 && box.top >= svg.top - 1 && box.bottom <= svg.bottom + 1;
        return { name: figure.querySelector("figcaption").textContent, width: svg.width, height: svg.height, marks: marks.length, inside: marks.every(inside), fits: svg.right <= frame.right + 1 };
      });
      assert(drawn.width > 200 && drawn.height > 80 && drawn.marks > 0, `the chart is drawn: ${JSON.stringify(drawn)}`);
      assert(drawn.inside && drawn.fits, `the curve lies inside its chart: ${JSON.stringify(drawn)}`);
    }
    if (wanted.classes) {
      const rows = await page.locator("table.confusion tr").all();
      assert.equal(rows.length, wanted.classes.length + 1, "the table of confusions has a row for each class");
      const heads = await rows[0].locator("th").allInnerTexts();
      assert.deepEqual(heads.slice(1), wanted.classes, "classes have the user's names");
      const counts = await page.locator("table.confusion td").allInnerTexts();
      assert.equal(counts.map(Number).reduce((sum, count) => sum + count, 0), wanted.rows, "every row is counted once");
      assert.equal(await page.locator("table.confusion td.right").count(), wanted.classes.length);
    }
    if (wanted.samples) {
      const rows = await page.locator("table.samples tr").all();
      assert.equal(rows.length, wanted.samples + 1, "so many rows are shown before and after");
      for (const row of rows.slice(1)) {
        const [, before, after] = await row.locator("td").allInnerTexts();
        assert(before.includes("prediction") && after.includes("prediction") && before !== after, `the row was learnt from: ${before} ${after}`);
      }
    }
    const options = await page.locator("table tr td:first-child").allInnerTexts();
    for (const name of wanted.options ?? []) assert(options.includes(name), `the option ${name} is told`);
    const differs = await page.locator("tr.differs td:first-child").allInnerTexts();
    for (const name of wanted.differs ?? []) assert(differs.includes(name), `${name} is told to differ: ${differs}`);

    const contrast = await page.evaluate(() => {
      const number = (colour) => colour.match(/[\d.]+/g).slice(0, 3).map(Number);
      const light = ([r, g, b]) => [r, g, b].map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4).reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
      const style = getComputedStyle(document.body);
      const [ink, paper] = [style.color, style.backgroundColor].map((colour) => light(number(colour)));
      return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    });
    assert(contrast > 7, `ink and paper are told apart (${scheme}): ${contrast}`);
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert(overflow <= 1, `nothing sticks out of a page of ${width} pixels: ${overflow}`);
    if (picture && width === 1280 && scheme === "light") await page.screenshot({ path: picture, fullPage: true });
    await page.close();
  }
} finally {
  await browser.close();
}
console.log(`${report} is right in Chromium.`);
