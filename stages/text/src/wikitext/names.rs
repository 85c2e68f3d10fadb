//! A wiki's names for its namespaces.
use std::collections::HashSet;

/// Names of the file and media namespaces in large wikis, including older names that their dumps do not list.
const FILES: &[&str] = &[
    "file",
    "image",
    "media",
    "datei",
    "bild",
    "fichier",
    "archivo",
    "imagen",
    "immagine",
    "bestand",
    "afbeelding",
    "ficheiro",
    "arquivo",
    "imagem",
    "plik",
    "grafika",
    "fil",
    "tiedosto",
    "kuva",
    "soubor",
    "файл",
    "изображение",
    "зображення",
    "зображэнне",
    "выява",
    "слика",
    "датотека",
    "датотека",
    "εικόνα",
    "αρχείο",
    "dosya",
    "resim",
    "fájl",
    "kép",
    "fișier",
    "imagine",
    "tập tin",
    "hình",
    "berkas",
    "gambar",
    "fitxer",
    "imatge",
    "fitxategi",
    "dosiero",
    "ملف",
    "صورة",
    "پرونده",
    "تصویر",
    "קובץ",
    "תמונה",
    "चित्र",
    "ファイル",
    "画像",
    "파일",
    "그림",
    "文件",
    "檔案",
    "档案",
    "图像",
    "圖像",
    "图片",
    "圖片",
    "ไฟล์",
    "ภาพ",
    "პატკერ",
    "ფაილი",
    "պատկեր",
    "attēls",
    "vaizdas",
    "slika",
    "fails",
];
/// The category namespace in large wikis.
const CATEGORIES: &[&str] = &[
    "category",
    "kategorie",
    "catégorie",
    "categoría",
    "categoria",
    "categorie",
    "kategoria",
    "kategori",
    "luokka",
    "категория",
    "категорія",
    "катэгорыя",
    "категорија",
    "κατηγορία",
    "kategória",
    "thể loại",
    "kategorio",
    "تصنيف",
    "رده",
    "קטגוריה",
    "श्रेणी",
    "category",
    "カテゴリ",
    "분류",
    "分类",
    "分類",
    "หมวดหมู่",
    "კატეგორია",
    "կատեգորիա",
    "kategorija",
    "kategoreja",
];
/// Language codes with more than three letters, or that are words.
const LANGUAGES: &[&str] = &[
    "simple",
    "zh-yue",
    "zh-min-nan",
    "zh-classical",
    "be-tarask",
    "be-x-old",
    "bat-smg",
    "fiu-vro",
    "map-bms",
    "nds-nl",
    "roa-rup",
    "roa-tara",
    "cbk-zam",
    "tokipona",
];

/// Prefixes of link targets that are not part of the text.
#[derive(Clone, Debug)]
pub struct Names {
    files: HashSet<String>,
    categories: HashSet<String>,
}

impl Default for Names {
    fn default() -> Self {
        let all = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        Self { files: all(FILES), categories: all(CATEGORIES) }
    }
}

/// The kind of a link with a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// A file, shown as a picture.
    File,
    /// Membership of the page in a category.
    Category,
    /// The page in another language.
    Language,
    /// Anything else: a link.
    Other,
}

impl Names {
    /// Adds the name of a namespace from a dump's `siteinfo`.
    pub fn add(&mut self, key: i32, name: &str) {
        match key {
            -2 | 6 => drop(self.files.insert(name.to_lowercase())),
            14 => drop(self.categories.insert(name.to_lowercase())),
            _ => {}
        }
    }

    /// The kind of a link to `target`, by what precedes its first colon.
    pub fn prefix(&self, target: &str) -> Prefix {
        let Some((prefix, _)) = target.split_once(':').filter(|(prefix, _)| prefix.len() <= 64) else {
            return Prefix::Other;
        };
        let prefix = prefix.trim().replace('_', " ").to_lowercase();
        if self.files.contains(&prefix) {
            Prefix::File
        } else if self.categories.contains(&prefix) {
            Prefix::Category
        } else if is_language(&prefix) {
            Prefix::Language
        } else {
            Prefix::Other
        }
    }
}

/// Two or three lower-case letters are a language, unless they are another project (`wikt:` is longer) or a short name
/// of a namespace.
fn is_language(prefix: &str) -> bool {
    let short = (2..=3).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_lowercase());
    short && !matches!(prefix, "wp" | "wt" | "doi" | "rfc" | "rev" | "iso" | "mos" | "cat" | "vol")
        || LANGUAGES.contains(&prefix)
}
