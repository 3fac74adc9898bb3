// node page_output.mjs URL: opens a page in a headless Chromium (CHROMIUM=..), and prints what its <output> says. Needs playwright-core; no other machine may be asked for anything.
import { chromium } from 'playwright-core';

const url = process.argv[2];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: ['--no-sandbox'] });
try {
  const page = await browser.newPage();
  const others = [];
  page.on('request', (request) => /^(blob|data):/.test(request.url()) || request.url().startsWith(new URL('/', url).href) || others.push(request.url()));
  page.on('pageerror', (error) => console.error(error.message));
  page.on('response', (response) => response.ok() || console.error(`${response.status()} ${response.url()}`));
  await page.goto(url, { timeout: 120_000 });
  await page.waitForFunction(() => document.querySelector('output')?.value, undefined, { timeout: 120_000 });
  if (others.length > 0) throw new Error(`the page asked others: ${others.join(', ')}`);
  console.log(await page.evaluate(() => document.querySelector('output').value));
} finally {
  await browser.close();
}
