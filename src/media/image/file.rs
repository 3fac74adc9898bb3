//! Files of pictures as pixels, to the number as Pillow has them: JPEG as libjpeg-turbo decodes it, 16 bits a channel as 8 of them, turned as its camera says.

use std::io::BufReader;
use std::ops::Range;
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits, RgbImage};
use libjpeg_turbo_rs::{DecodeLimits, Decoder, PixelFormat};

use super::sizes::{self, SMALLER};
use crate::error::{Context, Error, Result};
use crate::files;
use crate::files::wall::{PICTURE, behind_wall};

/// The most pixels of a picture's file: where Pillow refuses one as a decompression bomb.
const MOST_PIXELS: u64 = 178_956_970;
/// The most bytes that a picture has in memory; 3 a pixel, 6 where a file has 16 bits a channel.
const MOST_BYTES: u64 = 1 << 29;
/// The most passes of a JPEG over its picture; those of programs have about ten.
const MOST_SCANS: usize = 1 << 8;

/// Reads as much of a file as tells that it is a picture.
///
/// # Errors
/// As [`pixels`], but for what is wrong behind a file's head.
pub(super) fn check(path: &Path) -> Result<()> {
    let check = || {
        let bytes = files::map(path)?;
        if is_jpeg(&bytes) { jpeg(&bytes).map(drop) } else { head(path).map(drop) }
    };
    behind_wall(PICTURE, check).and_then(|checked| checked).in_file(path)
}

/// The first frame of a picture, turned as its camera says, in RGB without its alpha.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) or [`Format`](crate::ErrorKind::Format) with the file, if it cannot be read or is no PNG, JPEG, WebP, BMP or GIF.
pub(super) fn pixels(path: &Path) -> Result<RgbImage> {
    let decode = || -> Result<RgbImage> {
        let bytes = files::map(path)?;
        let (mut picture, orientation) = if is_jpeg(&bytes) { of_jpeg(&bytes)? } else { of_others(path, &bytes)? };
        picture.apply_orientation(orientation);
        Ok(picture.into_rgb8())
    };
    behind_wall(PICTURE, decode).and_then(|picture| picture).in_file(path)
}

fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xFF, 0xD8])
}

/// What decodes a JPEG, whose file says nothing of itself that cannot be.
fn jpeg(bytes: &[u8]) -> Result<Decoder<'_>> {
    // Beside the picture there are its planes of brightness and colours.
    let max_memory = Some(2 * MOST_BYTES);
    let limits = DecodeLimits { max_pixels: MOST_PIXELS, max_scans: MOST_SCANS, max_memory, ..DecodeLimits::default() };
    let decoder = Decoder::new_with_limits(bytes, limits).map_err(|error| PICTURE.refused(error))?;
    let side = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    sizes::check("the size of a picture", (side(decoder.header().width()), side(decoder.header().height())), MOST_PIXELS)?;
    Ok(decoder)
}

fn of_jpeg(bytes: &[u8]) -> Result<(DynamicImage, Orientation)> {
    is_whole(bytes)?;
    let mut decoder = jpeg(bytes)?;
    decoder.set_output_format(PixelFormat::Rgb);
    let orientation = orientation(decoder.exif_data(), decoder.xmp_data());
    let decoded = decoder.decode_image().map_err(|error| PICTURE.refused(error))?;
    let size = u32::try_from(decoded.width).ok().zip(u32::try_from(decoded.height).ok());
    let picture = size.and_then(|(width, height)| RgbImage::from_raw(width, height, decoded.into_vec()));
    let picture = picture.ok_or_else(|| PICTURE.refused("the JPEG has not as many pixels as it says"))?;
    Ok((DynamicImage::ImageRgb8(picture), orientation))
}

/// Refuses a JPEG that was cut off, for whose rest a decoder would take grey: its last scan has no end.
fn is_whole(bytes: &[u8]) -> Result<()> {
    const SCAN: u8 = 0xDA;
    const END: u8 = 0xD9;
    let last = |marker: u8| bytes.windows(2).rposition(|pair| pair == [0xFF, marker]);
    if last(END) < last(SCAN) {
        return Err(PICTURE.refused("the JPEG is cut off: its end is missing"));
    }
    Ok(())
}

/// What decodes a picture of another format, whose file says nothing of itself that cannot be: memory is asked for after that.
fn head(path: &Path) -> Result<impl ImageDecoder> {
    let mut reader = ImageReader::new(BufReader::new(files::ordinary(path)?)).with_guessed_format()?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_BYTES);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|error| PICTURE.refused(error))?;
    sizes::check("the size of a picture", decoder.dimensions(), MOST_PIXELS)?;
    if decoder.total_bytes() > MOST_BYTES {
        return Err(Error::mismatch("bytes of a picture", format!("at most {MOST_BYTES}"), decoder.total_bytes()).with_hint(SMALLER));
    }
    Ok(decoder)
}

fn of_others(path: &Path, bytes: &[u8]) -> Result<(DynamicImage, Orientation)> {
    let mut decoder = head(path)?;
    let (exif, xmp) = (decoder.exif_metadata().ok().flatten(), decoder.xmp_metadata().ok().flatten());
    let orientation = orientation(exif.as_deref(), xmp.as_deref());
    let picture = DynamicImage::from_decoder(decoder).map_err(|error| PICTURE.refused(error))?;
    let mut picture = in_eight_bits(picture);
    if let (DynamicImage::ImageRgba8(canvas), Some((frame, colour))) = (&mut picture, gif_margin(bytes)) {
        let outside = canvas.enumerate_pixels_mut().filter(|(x, y, _)| !frame[0].contains(x) || !frame[1].contains(y));
        outside.for_each(|(_, _, pixel)| pixel.0[..3].copy_from_slice(&colour));
    }
    Ok((picture, orientation))
}

/// Where on its canvas a GIF has its first frame, and what colour is around it: the transparent one, else the first of the palette, as for Pillow.
fn gif_margin(bytes: &[u8]) -> Option<([Range<u32>; 2], [u8; 3])> {
    const EXTENSION: u8 = 0x21;
    const CONTROL: u8 = 0xF9;
    const FRAME: u8 = 0x2C;
    let colours = |flags: u8| if flags & 0x80 == 0 { 0 } else { 6_usize << (flags & 7) };
    let number = |at: usize| Some(u32::from(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])));
    if !bytes.starts_with(b"GIF8") {
        return None;
    }
    let (palette, mut at, mut index) = (13, 13 + colours(*bytes.get(10)?), 0_u8);
    while *bytes.get(at)? == EXTENSION {
        if *bytes.get(at + 1)? == CONTROL && bytes.get(at + 3)? & 1 == 1 {
            index = *bytes.get(at + 6)?;
        }
        at += 2;
        while *bytes.get(at)? != 0 {
            at += 1 + usize::from(bytes[at]);
        }
        at += 1;
    }
    let (left, top, width, height) = (number(at + 1)?, number(at + 3)?, number(at + 5)?, number(at + 7)?);
    let (palette, length) = match (colours(*bytes.get(at + 9)?), colours(bytes[10])) {
        (0, length) => (palette, length),
        (length, _) => (at + 10, length),
    };
    let place = 3 * usize::from(index);
    let colour = bytes.get(palette..palette + length)?.get(place..place + 3)?;
    (bytes[at] == FRAME).then(|| ([left..left + width, top..top + height], [colour[0], colour[1], colour[2]]))
}

/// Numbers of 16 bits as Pillow makes 8 of them: the upper ones, but of a grey picture without alpha what there is up to 255.
fn in_eight_bits(picture: DynamicImage) -> DynamicImage {
    let upper = |numbers: Vec<u16>| numbers.into_iter().map(|number| number.to_be_bytes()[0]).collect();
    let (width, height) = (picture.width(), picture.height());
    let made = match picture {
        DynamicImage::ImageLuma16(grey) => {
            tracing::warn!("a grey picture has 16 bits a pixel: as for Pillow, what is above 255 is white");
            let up_to = |number: u16| u8::try_from(number).unwrap_or(u8::MAX);
            image::GrayImage::from_raw(width, height, grey.into_raw().into_iter().map(up_to).collect()).map(DynamicImage::from)
        }
        DynamicImage::ImageLumaA16(grey) => image::GrayAlphaImage::from_raw(width, height, upper(grey.into_raw())).map(DynamicImage::from),
        DynamicImage::ImageRgb16(colours) => RgbImage::from_raw(width, height, upper(colours.into_raw())).map(DynamicImage::from),
        DynamicImage::ImageRgba16(colours) => image::RgbaImage::from_raw(width, height, upper(colours.into_raw())).map(DynamicImage::from),
        other => Some(other),
    };
    made.expect("as many numbers as before")
}

/// How a picture is to be turned: as Pillow's `exif_transpose` finds it, in EXIF or else in XMP.
fn orientation(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    const NAME: &[u8] = b"tiff:Orientation";
    let of_xmp = |xmp: &[u8]| {
        let after = |at: usize| xmp[at + NAME.len()..].strip_prefix(b"=\"").or_else(|| xmp[at + NAME.len()..].strip_prefix(b">"));
        let mut places = xmp.windows(NAME.len()).enumerate().filter(|(_, name)| *name == NAME);
        let number = places.find_map(|(at, _)| after(at)?.first().copied().filter(u8::is_ascii_digit))?;
        Orientation::from_exif(number - b'0')
    };
    exif.and_then(Orientation::from_exif_chunk).or_else(|| xmp.and_then(of_xmp)).unwrap_or(Orientation::NoTransforms)
}
